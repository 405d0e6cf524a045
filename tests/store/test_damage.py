"""Looking for damage in a file that is in use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fieldstation.store.damage import find_damage
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.station_db import StationStore
from tests.store.examples import event, message


@pytest.fixture
def path(store: StationStore, tmp_path: Path) -> Path:
    """A file with rows, which a writer has open."""
    for number in range(1, 60):
        store.record_event(event(number), message)
    return tmp_path / "station.db"


def test_a_whole_file_has_none(path: Path, store: StationStore) -> None:
    """While it is written, too."""
    with store.transaction() as transaction:
        transaction.record_event(event(100), message)
        assert find_damage(path) == find_damage(path, thorough=True) == ""


def test_a_page_and_an_index_that_do_not_fit_are_found(path: Path, store: StationStore) -> None:
    """The index only where it is compared with its table."""
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema "
            "WHERE name = 'coverage_started_at') WHERE name = 'events_started_at'"
        )
    assert find_damage(path) == "" or "damaged" in find_damage(path)
    assert "station.db is damaged" in find_damage(path, thorough=True)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    assert "station.db is damaged" in find_damage(path)


def test_a_file_that_takes_too_long_is_neither_whole_nor_damaged(path: Path) -> None:
    """It is told as not read."""
    with pytest.raises(StoreUnavailable, match="not read to its end"):
        find_damage(path, longest_s=-1.0, thorough=True)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        find_damage(path.with_name("none.db"))
