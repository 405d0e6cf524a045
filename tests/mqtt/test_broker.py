"""The broker at home: private, kept alive, never left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.mqtt import broker as rooms
from fieldstation.mqtt.broker import EmbeddedBroker, is_free, own_access, read_access
from fieldstation.mqtt.connection import (
    Access,
    BrokerError,
    BrokerUrl,
    Connection,
    Session,
    Subscription,
)
from fieldstation.records import Message
from tests.mosquitto import needs_mosquitto
from tests.mqtt.conftest import QUICK
from tests.mqtt.fakes import Listener, listening, until

ALL = (Subscription("fieldstation/#"),)
TOPIC = "fieldstation/garden/status"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """Return a running broker in a folder with a blank in its name."""
    found = EmbeddedBroker(tmp_path / "a state" / "broker", port=0)
    found.start()
    yield found
    found.stop()


def folder_of(home: EmbeddedBroker) -> Path:
    return home._folder


@needs_mosquitto
def test_it_lets_the_station_write_and_the_reader_read(home: EmbeddedBroker) -> None:
    """And the reader not write: `watch` must not be able to change a station's words."""
    reader = Connection(read_access(folder_of(home)), QUICK)
    station = Connection(home.access, QUICK)
    with (
        listening(reader, Session("reader", ALL)) as heard,
        listening(station, Session("station", ALL)) as told,
    ):
        station.publish(Message(TOPIC, b"here"))
        until(lambda: heard.deliveries)
        reader.publish(Message(TOPIC, b"forged"))
        until(lambda: heard.published)
        assert heard.published[0][1] == "Not authorized"
        assert not told.deliveries


@needs_mosquitto
def test_another_process_of_the_station_s_user_may_write(home: EmbeddedBroker) -> None:
    """The worker tells its pictures; whoever may only read the folder cannot."""
    worker = Connection(own_access(folder_of(home)), QUICK)
    with listening(worker, Session("worker", ALL)) as heard:
        worker.publish(Message(TOPIC, b"painted"))
        until(lambda: heard.published)
    assert heard.published[0][1] == ""
    (folder_of(home) / "password").unlink()
    with pytest.raises(BrokerError, match="start the worker as the station's user"):
        own_access(folder_of(home))


@needs_mosquitto
def test_strangers_stay_outside(home: EmbeddedBroker) -> None:
    """Without a password, or with a wrong one."""
    wrong = Access(home.url, "guessed"), replace(home.access, password="guessed")
    for access in (Access(BrokerUrl(home.url.host, home.url.port)), *wrong):
        stranger = Connection(access, QUICK)
        with stranger.open(Session("stranger"), Listener()):
            until(lambda stranger=stranger: "refuses" in stranger.state().fault)  # type: ignore[misc]


class Thief:
    """Another process that listens where the broker did, and keeps what it is told."""

    def __init__(self, port: int) -> None:
        self.told = b""
        self.n_met = 0
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._meet, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _meet(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.n_met += 1
                with client:
                    client.settimeout(1)
                    self.told += client.recv(4096)


@needs_mosquitto
def test_who_takes_its_port_while_it_is_down_learns_nothing(home: EmbeddedBroker) -> None:
    """Neither the station nor a reader knocks there; the broker comes back on another port."""
    port, folder = home.url.port, folder_of(home)
    accesses = home.access, read_access(folder)
    station, reader = (Connection(access, QUICK) for access in accesses)
    assert home.pid is not None
    with listening(station, Session("station")), listening(reader, Session("reader", ALL)) as heard:
        os.kill(home.pid, signal.SIGKILL)
        until(lambda: home.pid is None)
        thief = Thief(port)
        until(lambda: station.state().fault and reader.state().fault)
        time.sleep(1.0)  # several attempts of each, at QUICK's pace
        until(home.check)
        until(lambda: station.up and reader.up)
        station.publish(Message(TOPIC, b"back"))
        until(lambda: heard.deliveries)
        thief.close()
    assert (thief.n_met, thief.told) == (0, b"")
    assert home.url.port != port
    assert read_access(folder).url.port == home.url.port


@needs_mosquitto
def test_a_folder_with_a_long_name_is_reached(tmp_path: Path) -> None:
    """The name of a Unix socket ends at 107 bytes; a folder's may be longer."""
    found = EmbeddedBroker(tmp_path / ("long" * 30), port=0)
    found.start()
    for access in (found.access, read_access(folder_of(found))):
        assert len(access.socket) > 107
        with listening(Connection(access, QUICK), Session("station")):
            pass
    found.stop()


@needs_mosquitto
def test_it_listens_on_the_loopback_only(home: EmbeddedBroker) -> None:
    """Nothing is offered to the network unasked."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{home.url.port:04X}"
    local = [row[1] for row in rows if row[1].endswith(":" + port) and row[3] == "0A"]
    assert local == [f"0100007F:{port}"]


@needs_mosquitto
def test_its_secrets_are_for_its_user_and_the_reader_s_for_the_group(home: EmbeddedBroker) -> None:
    """Nobody else reads either, and no password stands on a command line."""
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in folder_of(home).iterdir()
        if path.name not in ("mosquitto.db", "mosquitto.log")
    }
    assert modes.pop("reader.json") == 0o640
    assert modes.pop("socket") == 0o770  # for the group, which may not make another in its place
    assert stat.S_IMODE(folder_of(home).stat().st_mode) == 0o750
    assert set(modes.values()) == {0o600}
    password = (home.access.password or "?").encode()
    assert password not in Path(f"/proc/{home.pid}/cmdline").read_bytes()
    assert password not in (folder_of(home) / "users").read_bytes()


@needs_mosquitto
def test_it_runs_as_our_own_user(home: EmbeddedBroker) -> None:
    """As root, Mosquitto would become another, who could not read these files."""
    status = Path(f"/proc/{home.pid}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert set(uids) == {str(os.geteuid())}


@needs_mosquitto
def test_passwords_and_port_outlast_a_restart(tmp_path: Path) -> None:
    """Whoever subscribed yesterday finds it where it was."""
    first = EmbeddedBroker(tmp_path, port=0)
    first.start()
    before = first.access
    first.stop()
    second = EmbeddedBroker(tmp_path, port=0)
    second.start()
    assert second.access == before
    second.stop()


@needs_mosquitto
def test_retained_messages_outlast_a_restart(home: EmbeddedBroker) -> None:
    """It writes its memory when it is stopped."""
    connection = Connection(home.access, QUICK)
    with listening(connection, Session("teller")) as told:
        connection.publish(Message(TOPIC, b"kept", retain=True))
        until(lambda: told.published)
    home.stop()
    home.start()
    with listening(Connection(home.access, QUICK), Session("hearer", ALL)) as heard:
        until(lambda: heard.deliveries)
    assert heard.deliveries[0].payload == b"kept"


@needs_mosquitto
def test_a_taken_port_is_left_to_its_owner(tmp_path: Path) -> None:
    """Debian's own Mosquitto has 1883 wherever it is installed."""
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = owner.getsockname()[1]
        assert not is_free(taken)
        found = EmbeddedBroker(tmp_path, port=taken)
        found.start()
        assert found.url.port != taken
        found.stop()


@needs_mosquitto
def test_a_dead_broker_is_started_again_where_it_was(home: EmbeddedBroker) -> None:
    """Its clients look for it there; a second death soon after has to wait a little."""
    url, pid = home.url, home.pid
    assert home.check()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: home.pid is None)
    assert home.check()
    assert home.url == url
    again = home.pid
    assert again is not None
    os.kill(again, signal.SIGKILL)
    until(lambda: home.pid is None)
    until(home.check)


@needs_mosquitto
def test_a_broker_that_does_not_come_to_listen_is_tried_once_a_look(
    home: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tries in a row would last longer than the watchdog of a running station waits."""
    tries, slow = tmp_path / "tries", tmp_path / "bin" / "mosquitto"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\necho once >>'{tries}'\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(rooms, "START_S", 0.5)
    assert home.pid
    os.kill(home.pid, signal.SIGKILL)
    until(lambda: home.pid is None)
    assert not home.check()
    until(lambda: tries.exists() and tries.read_text())
    assert tries.read_text() == "once\n"
    monkeypatch.setattr(rooms, "LOADING_S", 0.0)
    assert not home.check()
    assert home.pid is None


@needs_mosquitto
def test_a_broker_that_reads_for_long_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gigabytes kept for an absent hub it never came up: it was ended and started again."""
    slow, has_read = tmp_path / "bin" / "mosquitto", tmp_path / "has read"
    slow.parent.mkdir()
    read = f"while [ ! -e '{has_read}' ]; do sleep 0.05; done"
    slow.write_text(f'#!/bin/sh\n{read}\nexec {rooms.find_program("mosquitto")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(rooms, "START_S", 0.1)
    found = EmbeddedBroker(tmp_path / "broker", port=0)
    found.start()
    pid = found.pid
    assert not found.check()
    has_read.touch()
    until(found.check)
    assert found.pid == pid
    assert read_access(tmp_path / "broker").url.port == found.url.port
    found.stop()


@needs_mosquitto
def test_last_words_that_the_disk_does_not_give_end_no_station(home: EmbeddedBroker) -> None:
    """Who looks after the broker is the main thread: it says that they cannot be read."""
    said = folder_of(home) / "mosquitto.log"
    said.unlink()
    said.mkdir()
    assert home.pid
    os.kill(home.pid, signal.SIGKILL)
    until(lambda: home.pid is None)
    assert not home.check()
    said.rmdir()
    until(home.check)


@needs_mosquitto
def test_a_disk_that_takes_nothing_is_waited_for(home: EmbeddedBroker) -> None:
    """A restart that cannot write its files ends nobody."""
    folder = folder_of(home)
    assert home.pid is not None
    os.kill(home.pid, signal.SIGKILL)
    until(lambda: home.pid is None)
    folder.rename(folder.with_name("away"))
    folder.touch()
    assert not home.check()
    folder.unlink()
    folder.with_name("away").rename(folder)
    until(home.check)


OWNER = """
import sys, time
from pathlib import Path
from fieldstation.mqtt.broker import EmbeddedBroker
found = EmbeddedBroker(Path(sys.argv[1]), port=0)
found.start()
print(found.pid, flush=True)
time.sleep(60)
"""


@needs_mosquitto
def test_it_dies_with_a_station_that_is_killed(tmp_path: Path) -> None:
    """The kernel tells it, since nobody else can."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    until(lambda: rooms._has_ended(pid))


@needs_mosquitto
def test_an_orphan_of_ours_is_reclaimed(tmp_path: Path) -> None:
    """Where the kernel did not tell it; its port and files are ours."""
    first = EmbeddedBroker(tmp_path, port=0)
    first.start()
    orphan = first.pid
    assert orphan is not None
    second = EmbeddedBroker(tmp_path, port=0)
    second.start()
    assert rooms._has_ended(orphan)
    assert second.pid not in (None, orphan)
    assert second.url == first.url
    second.stop()


@needs_mosquitto
def test_a_stranger_with_an_old_process_id_is_left_alone(tmp_path: Path) -> None:
    """Process ids come round again."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "pid").write_text(f"{stranger.pid}\n")
        found = EmbeddedBroker(tmp_path, port=0)
        found.start()
        assert stranger.poll() is None
        found.stop()
        stranger.kill()


@needs_mosquitto
def test_a_hung_broker_is_stopped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL needs no cooperation."""
    monkeypatch.setattr(rooms, "STOP_S", 0.2)
    found = EmbeddedBroker(tmp_path, port=0)
    found.start()
    assert found.pid is not None
    os.kill(found.pid, signal.SIGSTOP)
    found.stop()
    assert found.pid is None


def test_without_mosquitto_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or that another broker will do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rooms, "SBIN", str(tmp_path))
    with pytest.raises(BrokerError, match=r"apt install mosquitto.*mqtt\.url"):
        EmbeddedBroker(tmp_path / "broker").start()


@needs_mosquitto
def test_a_broker_that_cannot_start_tells_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not just that it failed."""
    monkeypatch.setattr(rooms, "CONFIG", rooms.CONFIG + "no_such_option 1\n")
    with pytest.raises(BrokerError, match=r"does not start: .*no_such_option"):
        EmbeddedBroker(tmp_path, port=0).start()


def test_only_the_main_thread_may_start_it(tmp_path: Path) -> None:
    """The kernel's signal comes when the thread that started it ends."""
    errors: list[str] = []

    def start() -> None:
        try:
            EmbeddedBroker(tmp_path).start()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ["the broker must be started from the main thread"]


def test_a_reader_without_a_station_is_told_what_to_do(tmp_path: Path) -> None:
    """No station, no right to read, or a damaged file: each in one line."""
    with pytest.raises(BrokerError, match="start the station"):
        read_access(tmp_path)
    (tmp_path / "reader.json").write_text("{")
    with pytest.raises(BrokerError, match="damaged"):
        read_access(tmp_path)


@needs_mosquitto
def test_it_does_not_speak_to_systemd_in_our_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Mosquitto says READY wherever NOTIFY_SOCKET points: that is the station's to say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        broker = EmbeddedBroker(tmp_path / "broker", port=0)
        broker.start()
        broker.stop()
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
