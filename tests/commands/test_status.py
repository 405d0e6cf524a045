"""`fieldstation status`, and a whole hub beside it: a station, a logger and a reader over mqtts."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.bundle import Bundle
from fieldstation.clock import US_PER_S
from fieldstation.commands.status import (
    COLUMNS,
    Report,
    as_json,
    as_row,
    gather,
    in_words,
    reports,
    wrong,
)
from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import Access, BrokerUrl, Connection, Delivery, Session
from fieldstation.mqtt.messages import Status
from fieldstation.records import Health, Message
from tests.commands.conftest import RATE, Run
from tests.deploy.hub import Hub, needs_hub
from tests.mosquitto import Mosquitto, free_port, needs_mosquitto
from tests.mqtt.fakes import KEY, listening, until

WIRE = Path(__file__).parents[2] / "docs" / "wire.md"
NOW = 1_777_600_000 * US_PER_S
Ended = subprocess.CompletedProcess[str]


def test_a_station_that_does_not_run_is_what_is_to_be_started(cli: Run, state: Path) -> None:
    """Its broker runs with it: nobody can start that alone."""
    (state / "broker").mkdir(parents=True)
    told = {"url": "mqtt://reader@127.0.0.1:1883", "password": "owl", "socket": "/gone"}
    (state / "broker" / "reader.json").write_text(json.dumps(told))
    ended = cli("status")
    assert ended.returncode == 1
    assert "start the station, whose broker it is" in ended.stderr


def delivered(message: Message) -> Delivery:
    return Delivery(message.topic, message.payload, retained=True, ticket=(1, 1), qos=1)


def told(
    online: bool = True, age_s: float = 10, values: dict[str, object] | None = None
) -> list[Delivery]:
    """Return what a broker keeps of a station that told its health some time ago."""
    status = Status("hedge", KEY, online, NOW - 3600 * US_PER_S if online else None, "0.1.0")
    health = Health(NOW - round(age_s * US_PER_S), values or {})
    return [
        delivered(messages.status_message(status)),
        delivered(messages.health_message("hedge", KEY, health)),
    ]


@pytest.mark.parametrize(
    ("deliveries", "said"),
    [
        (told(), []),
        (told(values={"problems": []}), []),
        (told(values={"problems": ["the disk is full", "no microphone"]}),
         ["the disk is full", "no microphone"]),
        (told(age_s=600), ["no health for 10 min"]),
        (told(age_s=-7200), ["its clock or ours is wrong by 2 h"]),
        (told(online=False, age_s=7200), ["offline"]),
        (told()[:1], ["no health for 1 h"]),
        (told()[1:], ["offline"]),
        ([Delivery("fieldstation/hedge/health", b"{}", True, (1, 1), 0), *told()],
         ["not understood: schema is None; this fieldstation reads fieldstation.health/1: update "
          "the older of the two"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_station_is_said(deliveries: list[Delivery], said: list[str]) -> None:
    """Nothing where it is online, heard of, and reports no problem."""
    assert wrong(reports(deliveries)["hedge"], NOW) == said


def test_a_row_says_how_the_day_went() -> None:
    """Shares are of what could be heard: sleep by schedule is no loss."""
    values = {"heard_today_s": 5400, "lost_today_s": 600, "asleep_today_s": 9e4, "n_waiting": 3}
    row = as_row(reports(told(values=values))["hedge"], NOW, "Europe/Berlin")
    assert tuple(row) == COLUMNS
    assert (row["heard_today"], row["lost_today"]) == ("1 h 30 min (90.0 %)", "10 min (10.0 %)")
    assert (row["state"], row["since"], row["health"]) == ("online", "2026-05-01 02:46", "10 s ago")
    assert row["waiting"] == 3


def test_an_offline_station_is_shown_with_when_it_was_last_heard_of() -> None:
    """By its last health: the broker's word for `offline` has no time."""
    row = as_row(reports(told(online=False, age_s=86_400 * 2))["hedge"], NOW, "UTC")
    assert (row["state"], row["since"]) == ("OFFLINE", "2026-04-29 01:46")
    assert row["health"] == "2 d ago"


@given(
    st.dictionaries(
        st.sampled_from(["heard_today_s", "lost_today_s", "problems", "n_events", "n_waiting"]),
        st.none() | st.text() | st.floats() | st.integers() | st.lists(st.text()) | st.booleans(),
    ),
    st.integers(-62_135_596_800_000_000, 253_402_300_799_000_000),
)
def test_whatever_a_station_tells_has_a_row(values: dict[str, object], at: int) -> None:
    """One that lies about itself keeps nobody from seeing the others."""
    report = Report("hedge", True, at, None, at, values)
    for zone in ("Pacific/Kiritimati", "America/Adak"):
        assert set(as_row(report, NOW, zone)) == set(COLUMNS)
    json.dumps(as_json(report, NOW))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min"), (3_600, "1 h"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_lengths_are_said_in_their_largest_units(seconds: float, words: str) -> None:
    """Two of them are enough."""
    assert in_words(seconds) == words


@needs_mosquitto
def test_a_broker_that_is_never_quiet_is_answered_for_too(tmp_path: Path) -> None:
    """A hub hears of one of a thousand stations several times a second."""
    broker = Mosquitto(tmp_path)
    broker.start()
    access = Access(BrokerUrl.parse(broker.url))
    found: list[Delivery] = []
    asking = threading.Thread(
        target=lambda: found.extend(gather(Connection(access), {"hedge"}, 0.0)), daemon=True
    )
    stations = Connection(access)
    with ExitStack() as ending:
        ending.callback(broker.kill)
        told = ending.enter_context(listening(stations, Session("stations")))
        stations.publish(messages.status_message(Status("hedge", KEY, True, NOW, "0.1.0")))
        until(lambda: told.published)
        asking.start()
        ends_at = time.monotonic() + 20
        while asking.is_alive() and time.monotonic() < ends_at:
            stations.publish(messages.health_message("wood", KEY, Health(NOW, {})))
            time.sleep(0.1)
    assert not asking.is_alive()
    assert reports(found)["hedge"].online


# A hub at work


@dataclass
class Field:
    """A hub, and what its users are started with."""

    hub: Hub
    folder: Path

    def options(self, user: str, *more: str) -> list[str]:
        """Return --config and --state of a user, whose settings users.sh wrote."""
        out = self.hub.folder / "out" / user
        text = (out / "fieldstation.toml").read_text()
        text = re.sub(r'(_file = ")(/etc/fieldstation/)?', rf"\1{out}/", text)
        settings = self.folder / f"{user}.toml"
        settings.write_text("\n".join([text, *more]))
        return ["--config", str(settings), "--state", str(self.folder / user)]

    def ask(self, *arguments: str, user: str = "anna") -> Ended:
        """Run `fieldstation status` as a user."""
        return fieldstation("status", *arguments, *self.options(user))

    def secrets(self) -> list[str]:
        """Return every password that there is."""
        return [path.read_text().strip() for path in (self.hub.folder / "out").glob("*/password")]


def fieldstation(*arguments: str) -> Ended:
    return subprocess.run(
        [sys.executable, "-m", "fieldstation", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TZ": "UTC"},
    )


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A running hub with the stations hedge and wood, the reader anna, and a logger."""
    folder = tmp_path_factory.mktemp("field")
    hub = Hub(folder / "hub")
    for role, name in (
        ("station", "hedge"),
        ("station", "wood"),
        ("reader", "anna"),
        ("hub", "logger"),
    ):
        hub.add(role, name)
    hub.start()
    yield Field(hub, folder)
    hub.kill()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return a list of processes that are stopped at the end, as Ctrl-C does."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in reversed(found):
        process.send_signal(signal.SIGINT)
        process.wait(30)


def said_by(folder: Path, name: str) -> str:
    return (folder / f"{name}.out").read_text(errors="replace")


@needs_hub
def test_a_station_a_logger_and_a_reader_over_tls(
    field: Field,
    started: list[subprocess.Popen[bytes]],
    tones: Bundle,
    recording: Path,
    tmp_path: Path,
) -> None:
    """Birds reach the hub's log; status and metrics tell how it is; no password shows anywhere."""
    port = free_port()
    metrics = f'[metrics]\nlisten = "127.0.0.1:{port}"'
    log = ["log", "--database", f"sqlite:///{tmp_path}/birds.db", *field.options("logger")]
    station = ["run", "--source", "-", "--bundle", str(tones.path),
               *field.options("hedge", metrics)]  # fmt: skip
    with ExitStack() as files:
        for name, arguments in (("log", log), ("hedge", station)):
            output = files.enter_context((tmp_path / f"{name}.out").open("wb"))
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fieldstation", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "TZ": "UTC", "PYTHONUNBUFFERED": "1"},
                )
            )
    until(lambda: "connected" in said_by(tmp_path, "hedge"), 40)
    until(lambda: "connected" in said_by(tmp_path, "log"), 40)
    sound, _ = soundfile.read(recording, dtype="int16")
    assert RATE == 48_000
    pipe = started[1].stdin
    assert pipe is not None
    pipe.write(sound.tobytes())
    pipe.flush()
    until(lambda: n_logged(tmp_path / "birds.db") == 2, 40)

    well = field.ask("hedge")
    assert well.returncode == 0, well.stdout + well.stderr
    assert re.search(r"^hedge +online +\d{4}-", well.stdout, re.M)
    (report,) = json.loads(field.ask("hedge", "--json").stdout)
    assert (report["online"], report["wrong"]) == (True, [])
    painters = {name for name in documented_values() if "picture" in name or name == "painter"}
    assert set(report["health"]) | painters == documented_values()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        assert 'fieldstation_broker_connected{station="hedge"}' in page.read().decode()
    missing = field.ask("hedge", "wood", "--wait", "0")
    assert missing.returncode == 1
    assert re.search(r"^wood +OFFLINE.*never heard of$", missing.stdout, re.M)

    shown = [said_by(tmp_path, "hedge"), said_by(tmp_path, "log"), well.stdout, well.stderr]
    shown += [command_line(process.pid) for process in started]
    shown += texts_below(field.folder / "hedge")
    for secret in field.secrets():
        assert not any(secret in text for text in shown)

    started.pop().communicate(timeout=30)
    gone = field.ask("hedge")
    assert gone.returncode == 1
    assert re.search(r"^hedge +OFFLINE +\d{4}-.* ago.* offline$", gone.stdout, re.M)


def n_logged(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as log:
        tables = log.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'detections'")
        if not tables.fetchone()[0]:
            return 0
        return int(log.execute("SELECT count(*) FROM detections").fetchone()[0])


def documented_values() -> set[str]:
    """Return the names in docs/wire.md's table of what health tells."""
    page = WIRE.read_text("utf-8").split("## What health tells\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def command_line(pid: int) -> str:
    """Return what `ps` shows of a process and of those that it started."""
    with suppress(ProcessLookupError, FileNotFoundError):  # a child may end while it is read
        own = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return own + "".join(command_line(int(child)) for child in children)
    return ""


def texts_below(folder: Path) -> list[str]:
    """Return what stands in the files of a running station."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(IsADirectoryError, FileNotFoundError):  # some come and go
            found[path.name] = path.read_text(errors="replace")
    assert "station.lock" in found
    return list(found.values())


@needs_hub
def test_a_broker_that_refuses_us_is_to_be_mended_and_one_that_is_away_may_return(
    field: Field, tmp_path: Path
) -> None:
    """Exit 2 for a wrong password or authority, 1 where nobody answers; no password in either."""
    wrong_password = tmp_path / "password"
    wrong_password.write_text("pl4nted-s3cret\n")
    refused = field.ask("--password-file", str(wrong_password))
    assert refused.returncode == 2
    assert "the broker refuses user 'anna'" in refused.stderr
    assert "pl4nted" not in refused.stdout + refused.stderr
    stranger = field.ask("--ca-file", str(field.hub.folder / "server.crt"))
    assert stranger.returncode == 2
    assert "its certificate is signed by an authority that is not in" in stranger.stderr
    away = field.ask("--broker", f"mqtts://anna@localhost:{free_port()}")
    assert away.returncode == 1
    assert "Connection refused: start the broker" in away.stderr
    checked = fieldstation("check", *field.options("anna"), "--bundle", "none")
    assert re.search(r"^broker +OK +mqtts://anna@localhost:\d+ lets us in", checked.stdout, re.M)


@needs_hub
def test_a_broker_that_knows_no_station_says_so(tmp_path: Path) -> None:
    """An empty table that counted as well would hide a wrong broker."""
    empty = Hub(tmp_path / "hub")
    empty.add("reader", "anna")
    empty.start()
    asked = Field(empty, tmp_path).ask()
    empty.kill()
    assert asked.returncode == 1
    assert "no station has told this broker anything" in asked.stdout
