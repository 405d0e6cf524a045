"""Dated copies of a database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fieldstation.store import backup
from fieldstation.store.backup import PAGES, back_up, backups
from fieldstation.store.errors import StoreError
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import Filter, detections
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.store.conftest import without_rights
from tests.store.examples import DAWN, detection, event, message

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "log.db"


def test_a_copy_of_a_live_log_opens_as_a_log(path: Path, clock: FakeClock) -> None:
    """Also what is still in the -wal is in it; it is one file."""
    log = LogStore(str(path))
    log.record([detection(1)], DAWN)
    copy = back_up(f"sqlite:///{path}", path.parent / "backups", 7, clock)
    log.record([detection(2)], DAWN)
    log.close()
    assert copy.name == "log-20250615T150640Z.db"
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]
    with_first = LogStore(str(copy), readonly=True)
    assert list(detections(with_first, Filter())) == [detection(1)]
    with_first.close()


def test_a_writer_is_not_kept_waiting(path: Path, clock: FakeClock) -> None:
    """A copy is taken while another transaction is open; it holds what was committed."""
    log = LogStore(str(path))
    log.record([detection(1)], DAWN)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM detections")
    copy = back_up(path, path.parent / "backups", 7, clock)
    writer.execute("ROLLBACK")
    writer.close()
    log.close()
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM detections").fetchone() == (1,)


def test_the_newest_copies_are_kept(path: Path, clock: FakeClock) -> None:
    """Each database's own; what a person put beside them stays."""
    folder = path.parent / "backups"
    LogStore(str(path)).close()
    StationStore(path.parent / "station.db").close()
    back_up(path.parent / "station.db", folder, 1, clock)
    (folder / "log-before-upgrade.db").touch()
    (folder / "log-20200101T000000Z.db.tmp").touch()
    copies = []
    for _ in range(4):
        copies.append(back_up(path, folder, 2, clock))
        clock.advance(DAY_S)
    assert backups(path, folder) == [copies[3], copies[2]]
    assert sorted(p.name for p in folder.iterdir()) == [
        "log-20250617T150640Z.db",
        "log-20250618T150640Z.db",
        "log-before-upgrade.db",
        "station-20250615T150640Z.db",
    ]


def test_a_copy_of_a_machine_that_began_in_1970_is_kept(path: Path, clock: FakeClock) -> None:
    """By its name it is the oldest; it has what the others have not."""
    folder = path.parent / "backups"
    LogStore(str(path)).close()
    for _ in range(2):
        newest = back_up(path, folder, 2, clock)
        clock.advance(DAY_S)
    copy = back_up(path, folder, 2, FakeClock(wall=60_000_000))
    assert backups(path, folder) == [newest, copy]


def test_station_db_is_copied_with_its_outbox(path: Path, clock: FakeClock) -> None:
    """A station put back from its copy goes on with what waited, and with the next place."""
    store = StationStore(path, clock)
    store.record_event(event(1), message)
    copy = back_up(path, path.parent / "backups", 7, clock)
    store.close()
    restored = StationStore(copy, clock)
    assert [row.sequence for row in restored.pending()] == [1]
    assert restored.record_event(event(2), message) == 2
    restored.close()


def test_postgresql_has_its_own_tools(tmp_path: Path) -> None:
    """The text names them, and nothing is tried."""
    with pytest.raises(StoreError, match="pg_dump"):
        back_up("postgresql://fieldstation@nowhere/log", tmp_path / "backups", 7)
    assert not (tmp_path / "backups").exists()


def test_a_damaged_database_replaces_no_backup(path: Path, clock: FakeClock) -> None:
    """The last good copies stay, and no half-written one appears."""
    folder = path.parent / "backups"
    LogStore(str(path)).close()
    good = back_up(path, folder, 1, clock)
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xff" * (len(damaged) - 8192)
    path.write_bytes(damaged)
    clock.advance(DAY_S)
    with pytest.raises(StoreError, match=r"log\.db is damaged"):
        back_up(path, folder, 1, clock)
    assert list(folder.iterdir()) == [good]


def test_a_missing_database_or_closed_folder_is_told(
    path: Path, public_folder: Path, clock: FakeClock
) -> None:
    """One line each, with the mend."""
    with pytest.raises(StoreError, match=r"log\.db does not exist yet"):
        back_up(path, path.parent / "backups", 7, clock)
    LogStore(str(public_folder / "log.db")).close()
    with (
        without_rights(public_folder),
        pytest.raises(StoreError, match=r"takes no backup .*: make it writable"),
    ):
        back_up(public_folder / "log.db", public_folder / "backups", 7, clock)


def test_a_copy_that_is_written_beside_holds_one_state(path: Path, clock: FakeClock) -> None:
    """However often others commit meanwhile: it neither begins anew nor mixes two states."""
    log = LogStore(str(path))
    log.record([detection(n) for n in range(4_000)], DAWN)
    done = threading.Event()

    def write_on() -> None:
        for number in range(4_000, 100_000):
            if done.is_set():
                return
            log.record([detection(number)], DAWN)

    writer = threading.Thread(target=write_on)
    writer.start()
    copy = back_up(path, path.parent / "backups", 7, clock)
    done.set()
    writer.join()
    log.close()
    with closing(sqlite3.connect(copy)) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM detections").fetchone()
        (counted,) = connection.execute("SELECT sum(n) FROM daily").fetchone()
    assert rows == counted >= 4_000
    assert copy.stat().st_size > PAGES * 4096


def test_a_copy_for_which_there_is_no_room_is_not_begun(path: Path, clock: FakeClock) -> None:
    """It would take the log's own room; what the copy did not get, nobody misses."""
    log = LogStore(str(path))
    log.record([detection(1)], DAWN)
    log.close()
    whole = path.stat().st_size
    os.truncate(path, shutil.disk_usage(path.parent).free)  # takes no room: a hole
    with pytest.raises(StoreError, match=r"a copy of .* wants .*: free some space"):
        back_up(path, path.parent / "backups", 7, clock)
    assert list((path.parent / "backups").iterdir()) == []
    os.truncate(path, whole)
    assert back_up(path, path.parent / "backups", 7, clock).exists()


def test_what_is_written_beside_a_copy_is_taken_in_for_the_writer(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that follows a copy does not have to bring all of the -wal into the database."""
    log = LogStore(str(path))
    log.record([detection(1)], DAWN)
    monkeypatch.setattr(backup, "_see_room", lambda *_: log.record([detection(2)], DAWN))
    back_up(path, path.parent / "backups", 7, clock)
    alone = path.with_name("alone.db")  # without its -wal
    shutil.copy(path, alone)
    log.close()
    with closing(sqlite3.connect(alone)) as connection:
        assert connection.execute("SELECT count(*) FROM detections").fetchone() == (2,)
