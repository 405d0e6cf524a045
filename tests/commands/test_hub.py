"""A hub: `log` alone on SQLite and PostgreSQL, a station without a log, `watch` beside them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import Filter, detections
from tests.commands.conftest import Run
from tests.mosquitto import Mosquitto, needs_mosquitto
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

pytestmark = needs_mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a running broker, as a hub has one."""
    found = Mosquitto(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def listens_only(tmp_path: Path) -> Path:
    """Return the settings of a station that a hub logs."""
    path = tmp_path / "station.toml"
    path.write_text('[log]\nenabled = false\n[mqtt]\ntrust = "any"\n')
    return path


@contextmanager
def command(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background, and stop it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldstation", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TZ": "UTC", "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        assert "Traceback" not in said, said


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what it said until then."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{process.args} never said {text!r}")


def wait_for(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    ends_at = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < ends_at:
        time.sleep(0.1)
    return condition()


def check_hub(
    url: str, broker: Mosquitto, settings: Path, cli: Run, tones: Bundle, recording: Path, tmp: Path
) -> None:
    """Log two stations into one database; each ends only when its receipts have come."""
    hub = ("log", "--broker", broker.url, "--database", url, "--state", tmp / "hub")
    with command(*hub) as logger:
        assert "alembic" not in read_until(logger, "connected")
        for name in ("hedge", "wood"):
            ended = cli(
                *("run", "--source", recording, "--bundle", tones.path, "--name", name),
                *("--broker", broker.url, "--config", settings),
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr
    log = LogStore(url, readonly=True)
    found = [(d.station, d.scientific_name) for d in detections(log, Filter())]
    log.close()
    assert sorted(found) == sorted(
        (station, species)
        for station in ("hedge", "wood")
        for species in ("Fringilla coelebs", "Parus major")
    )


def test_a_hub_logs_many_stations_into_sqlite(
    broker: Mosquitto, listens_only: Path, cli: Run, tones: Bundle, recording: Path, tmp_path: Path
) -> None:
    """One logger, two stations, one file."""
    url = f"sqlite:///{tmp_path / 'birds.db'}"
    check_hub(url, broker, listens_only, cli, tones, recording, tmp_path)


def test_a_hub_logs_many_stations_into_postgresql(
    postgres_url: str,
    broker: Mosquitto,
    listens_only: Path,
    cli: Run,
    tones: Bundle,
    recording: Path,
    tmp_path: Path,
) -> None:
    """The same with a real server."""
    check_hub(postgres_url, broker, listens_only, cli, tones, recording, tmp_path)


def test_watch_shows_birds_as_they_come(
    broker: Mosquitto, cli: Run, tones: Bundle, recording: Path, tmp_path: Path
) -> None:
    """A subscriber sees online, two birds, and that the station has gone."""
    with command("watch", "--broker", broker.url, "--state", tmp_path / "watch") as watcher:
        read_until(watcher, "connected")
        cli(
            *("run", "--source", recording, "--bundle", tones.path, "--name", "hedge"),
            *("--broker", broker.url),
        )
        for text in ("hedge is online", "Chaffinch (Fringilla", "Great Tit", "hedge is offline"):
            read_until(watcher, text)


def test_a_station_that_trusts_no_logger_is_content_with_the_broker(
    broker: Mosquitto, cli: Run, tones: Bundle, recording: Path, state: Path, tmp_path: Path
) -> None:
    """`trust = "none"`: PUBACK ends a message."""
    settings = tmp_path / "none.toml"
    settings.write_text('[log]\nenabled = false\n[mqtt]\ntrust = "none"\n')
    ended = cli(
        *("run", "--source", recording, "--bundle", tones.path),
        *("--broker", broker.url, "--config", settings),
    )
    assert ended.returncode == 0, ended.stdout
    with closing(sqlite3.connect(state / "station.db")) as station:
        waiting = station.execute("SELECT count(*) FROM outbox WHERE confirmed_at IS NULL")
        assert waiting.fetchone() == (0,)


def test_a_station_that_could_never_be_confirmed_is_refused(
    broker: Mosquitto, cli: Run, tones: Bundle, recording: Path, tmp_path: Path
) -> None:
    """No log of its own and trust in it: the mend is named."""
    settings = tmp_path / "own.toml"
    settings.write_text("[log]\nenabled = false\n")
    ended = cli("run", "--source", recording, "--bundle", tones.path, "--config", settings)
    assert ended.returncode == 2
    assert "mqtt.trust is 'own'" in ended.stderr


def test_a_database_that_comes_later_is_waited_for(
    broker: Mosquitto, cli: Run, tones: Bundle, recording: Path, tmp_path: Path
) -> None:
    """A locked log at the hub delays receipts; when it is free again, all is confirmed."""
    database = tmp_path / "birds.db"
    LogStore(str(database)).close()
    hub = ("log", "--broker", broker.url, "--database", f"sqlite:///{database}")
    settings = tmp_path / "any.toml"
    settings.write_text('[log]\nenabled = false\n[mqtt]\ntrust = "any"\n')
    with closing(sqlite3.connect(database)) as lock, command(*hub, "--state", tmp_path) as logger:
        read_until(logger, "connected")
        lock.execute("BEGIN EXCLUSIVE")
        station = ("run", "--source", recording, "--bundle", tones.path, "--name", "hedge")
        where = ("--broker", broker.url, "--config", settings, "--state", tmp_path / "station")
        with command(*station, *where) as waiting:
            read_until(logger, "trying again")
            assert waiting.poll() is None
            lock.rollback()
            assert wait_for(lambda: waiting.poll() == 0)
    with closing(sqlite3.connect(database)) as log:
        assert log.execute("SELECT count(*) FROM detections").fetchone() == (2,)
