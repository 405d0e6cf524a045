"""Which database a url names, and what is said where it cannot be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fieldstation.store.database import file_of, open_url
from fieldstation.store.errors import StoreBusy, StoreError, StoreUnavailable
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.store.conftest import without_rights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:////var/lib/fieldstation/log.db", Path("/var/lib/fieldstation/log.db")),
        ("sqlite:///log.db", Path("log.db")),
        ("/srv/bird log/100%.db", Path("/srv/bird log/100%.db")),
        ("postgresql://user@host/log", None),
        ("postgres://user@host/log", None),
        ("postgresql+psycopg://user@host/log", None),
    ],
)
def test_a_url_or_path_names_a_file_or_a_server(text: str, expected: Path | None) -> None:
    """Files are SQLite's."""
    assert file_of(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://host/log", "mysql is unknown"),
        ("://", "is no database url"),
        ("postgresql://owl:hoot@hub:port/birds", r"owl:\*\*\*@hub:port/birds' is no database url"),
    ],
)
def test_another_url_is_refused(text: str, said: str) -> None:
    """With what to write instead."""
    with pytest.raises(StoreError, match=said):
        open_url(text, timeout_s=1.0)


def test_a_file_name_may_hold_any_character(tmp_path: Path) -> None:
    """A question mark or a per cent sign is no url."""
    path = tmp_path / "bird log 100%?mode=ro#1.db"
    LogStore(str(path)).close()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_reader_is_told_that_there_is_nothing_yet(tmp_path: Path) -> None:
    """Not to make the folder of a station that never ran."""
    with pytest.raises(StoreError, match=r"nowhere/log.db does not exist yet: name a database"):
        LogStore(f"sqlite:///{tmp_path}/nowhere/log.db", readonly=True)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """It is not made: a mistyped path would be a new, empty log."""
    with pytest.raises(StoreError, match=r"the folder .*/nowhere does not exist: make it"):
        LogStore(f"sqlite:///{tmp_path}/nowhere/log.db")


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    """It is said so before SQLite says anything."""
    with pytest.raises(StoreError, match="is a folder"):
        LogStore(str(tmp_path))


def test_a_file_that_is_no_database_stays_as_it_is(tmp_path: Path) -> None:
    """Someone's text is not overwritten."""
    path = tmp_path / "log.db"
    path.write_text("Great Tit, 06:12, hedge\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"log\.db is damaged or no database"):
        LogStore(str(path))
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(public_folder: Path) -> None:
    """A new database, or an old one to be written."""
    StationStore(public_folder / "old.db").close()
    with without_rights(public_folder):
        with pytest.raises(StoreUnavailable, match=r"new\.db cannot be opened"):
            StationStore(public_folder / "new.db")
        with pytest.raises(StoreUnavailable, match=r"old\.db cannot be"):
            StationStore(public_folder / "old.db")


def test_a_new_database_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    """Not longer than the timeout."""
    path = tmp_path / "station.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusy, match="is locked by another process"):
        StationStore(path, timeout_s=0.05)
    other.execute("ROLLBACK")
    other.close()
    StationStore(path, timeout_s=0.05).close()


def test_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    """WAL with a sync at each commit (FULL is 2), and foreign keys are kept."""
    store = StationStore(tmp_path / "station.db", timeout_s=0.25)
    with store.database.write() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
    store.close()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 250,
    }
