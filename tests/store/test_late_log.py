"""A log that comes later than the station, or is taken away under it."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from fieldstation.store.backup import back_up
from fieldstation.store.errors import DamagedDatabase, StoreUnavailable
from fieldstation.store.late_log import LateLog
from fieldstation.store.repair import put_aside
from tests.fakes import FakeClock
from tests.store.examples import detection, interval


def n_rows(path: Path) -> int:
    """Return how many detections somebody else finds in a file."""
    with closing(sqlite3.connect(path)) as log:
        found: int = log.execute("SELECT count(*) FROM detections").fetchone()[0]
        return found


def test_rows_never_go_into_a_file_that_was_removed(tmp_path: Path) -> None:
    """After `rm log.db` the next row makes a new log, as a restart would."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}")
    log.record([detection(1)], 0)
    for file in tmp_path.iterdir():
        file.unlink()
    log.record([detection(2)], 0)
    assert n_rows(path) == 1
    log.close()


def test_a_log_removed_while_it_is_written_confirms_nothing(tmp_path: Path) -> None:
    """The rows are written again, to where they can be found."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable, match=r"log\.db was removed"), log._kept():
        path.rename(tmp_path / "taken.db")
    log.record([detection(1)], 0)
    assert n_rows(path) == 1
    log.close()


def test_a_log_whose_folder_is_taken_away_is_waited_for(tmp_path: Path) -> None:
    """A disk that is pulled comes back: it is nothing for which a station ends."""
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    log = LateLog(f"sqlite:///{disk / 'log.db'}")
    log.record([detection(1)], 0)
    disk.rename(elsewhere)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="folder"):
            log.record([detection(2)], 0)
    elsewhere.rename(disk)
    log.record([detection(2)], 0)
    assert n_rows(disk / "log.db") == 2
    log.close()


def test_another_log_in_its_place_is_told_what_it_may_lack(tmp_path: Path) -> None:
    """While a disk is pulled its folder may be there, and empty: a log in it is hidden later."""
    disk, pulled, told = tmp_path / "disk", tmp_path / "pulled", threading.Event()
    disk.mkdir()
    log = LateLog(f"sqlite:///{disk / 'log.db'}", on_restored=told.set)
    log.record([detection(1)], 0)
    assert not told.is_set()
    disk.rename(pulled)
    disk.mkdir()
    log.record([detection(2)], 0)
    assert told.wait(20)
    told.clear()
    disk.rename(tmp_path / "hidden")
    pulled.rename(disk)
    log.record([detection(3)], 0)
    assert told.wait(20)
    log.close()


def damage(path: Path, table: str) -> None:
    """Overwrite the last page of a table's rows."""
    query = "SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        number: int = database.execute(query, (table,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((number - 1) * 4096)
        file.write(b"\xff" * 4096)


def wait_for_repair(log: LateLog) -> None:
    """Ask until the log is there again, as the logger does."""
    deadline = time.monotonic() + 20
    while True:
        try:
            log.opened()
            return
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def fill(log: LateLog) -> None:
    log.record([detection(n, scientific_name=f"S. {n % 3}") for n in range(200)], 0)
    log.record_coverage("garden", "k1", [interval(duration_s=60.0)])


def test_a_damaged_log_is_restored_with_its_rows_and_its_backups(tmp_path: Path) -> None:
    """What the file has lost comes from the copy, what the copy has not yet from the file."""
    path, backups = tmp_path / "log.db", tmp_path / "backups"
    log = LateLog(f"sqlite:///{path}", backups=backups)
    fill(log)
    back_up(path, backups, 3, FakeClock())
    log.record([detection(n) for n in range(1000, 1060)], 0)
    log.close()
    damage(path, "detections")
    with pytest.raises(StoreUnavailable):
        log.record([detection(n) for n in range(1060)], 0)
    wait_for_repair(log)
    log.record([detection(2_000)], 0)
    log.close()
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        n, counted = found.execute(
            "SELECT (SELECT count(*) FROM detections), (SELECT sum(n) FROM daily)"
        ).fetchone()
        assert found.execute("SELECT duration_s FROM coverage").fetchall() == [(60.0,)]
    assert n == counted
    assert 240 < n < 261  # the rows of one page, made after the copy, are lost
    assert put_aside(path)[0].name in log.news


def test_a_check_that_finds_damage_has_the_log_restored(tmp_path: Path) -> None:
    """Before a query meets it."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}", backups=tmp_path / "backups")
    fill(log)
    log.suspect("row 3 is missing from an index")
    with pytest.raises(StoreUnavailable, match="being restored"):
        log.opened()
    wait_for_repair(log)
    assert n_rows(path) == 200
    log.close()


def test_who_may_not_restore_a_damaged_log_waits_for_who_does(tmp_path: Path) -> None:
    """A worker that has met the damage begins no repair, and finds the restored file."""
    path = tmp_path / "log.db"
    station = LateLog(f"sqlite:///{path}", backups=tmp_path / "backups")
    worker = LateLog(f"sqlite:///{path}")
    fill(station)
    worker.suspect("a page does not fit")
    assert worker.opened().record([detection(0)], 0) == ["conflict"]
    station.suspect("a page does not fit")
    wait_for_repair(station)
    worker.record([detection(2_000)], 0)
    assert n_rows(path) == 201
    for log in (station, worker):
        log.close()


def test_a_station_starts_beside_a_damaged_log(tmp_path: Path) -> None:
    """Without its first page no table is known; the rows are."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}")
    fill(log)
    log.close()
    with path.open("r+b") as file:
        file.write(bytes(4096))
    log = LateLog(f"sqlite:///{path}", backups=tmp_path / "backups")
    wait_for_repair(log)
    assert n_rows(path) == 200
    log.close()


def test_only_its_keeper_restores_a_log_and_nobody_somebody_elses_text(tmp_path: Path) -> None:
    """A worker beside the station waits; a file that never was a database is left alone."""
    path = tmp_path / "elsewhere" / "birds.txt"
    path.parent.mkdir()
    path.write_text("Great Tit, 06:12, hedge\n" * 400)
    for backups in (None, tmp_path / "backups"):
        with pytest.raises(DamagedDatabase):
            LateLog(f"sqlite:///{path}", backups=backups)
    assert path.read_text().startswith("Great Tit")
    assert [file.name for file in path.parent.iterdir()] == ["birds.txt"]
