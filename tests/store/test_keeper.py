"""station.db removed, replaced or damaged: what can be had back comes back, and it is told."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from fieldstation.records import ClipState, Message
from fieldstation.store.backup import back_up
from fieldstation.store.errors import DamagedDatabase, StoreError, StoreUnavailable
from fieldstation.store.keeper import LEAP, Keeper, open_station_db
from fieldstation.store.repair import put_aside, put_in_place
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.store.conftest import full_disk
from tests.store.examples import DAWN, event, interval, message

PAGE = 4_096


def long_message(sequence: int) -> Message:
    """Return a message of which a page holds a dozen."""
    return Message("t", b"%300d" % sequence)


@pytest.fixture
def path(store: StationStore, tmp_path: Path) -> Path:
    """The file of a store with forty events; confirmed are the first ten."""
    for number in range(1, 41):
        store.record_event(event(number), long_message)
    store.confirm([str(UUID(int=number)) for number in range(1, 11)])
    store.record_intervals([interval(DAWN, duration_s=60.0), interval(DAWN + 1, cause="disk")])
    store.set_clip(UUID(int=7), ClipState.WRITTEN, "7.flac")
    return tmp_path / "station.db"


@pytest.fixture
def keeper(store: StationStore, path: Path, clock: FakeClock) -> Iterator[Keeper]:
    """What looks after it."""
    keeper = Keeper(store.database, path, path.parent / "backups", clock)
    yield keeper
    keeper.close()


def test_what_is_put_aside_in_1970_is_kept(tmp_path: Path, clock: FakeClock) -> None:
    """It was told that it is there, and holds what could not be read."""
    path, whole = tmp_path / "station.db", tmp_path / "station.db.part"
    for now in (clock, clock, clock, FakeClock(wall=60_000_000)):
        path.touch()
        whole.touch()
        aside = put_in_place(whole, path, "damaged", now)
        clock.advance(60)
    assert aside.name == "station.db.damaged-19700101T000100Z"
    assert aside in put_aside(path)
    assert len(put_aside(path)) == 3


def remove(path: Path) -> None:
    for file in path.parent.glob(path.name + "*"):
        file.unlink()


def overwrite(path: Path, page: int) -> None:
    """Damage one page of a file, counted from 0."""
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(os.urandom(PAGE))


def leaf_of(store: StationStore, path: Path, table: str) -> int:
    """Have all in the file itself; return the last page of a table's rows, counted from 0."""
    store.close()
    query = "SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        number: int = database.execute(query, (table,)).fetchone()[0]
    return number - 1


def ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in database.execute("SELECT id FROM outbox")}


def test_a_removed_file_comes_back_with_all_that_was_in_it(
    store: StationStore, keeper: Keeper, path: Path
) -> None:
    """Also what was written after it was removed."""
    keeper.look()
    assert keeper.news == ""
    remove(path)
    store.record_event(event(41), message)
    keeper.look()
    store.record_event(event(42), message)
    assert ids(path) == {str(UUID(int=number)) for number in range(1, 43)}
    assert [row.sequence for row in store.pending(40)] == [41, 42]
    assert "was put back" in keeper.news


def test_a_file_that_another_took_the_place_of_comes_back(
    store: StationStore, keeper: Keeper, path: Path, empty_databases: Path
) -> None:
    """The other stays, under a name that tells."""
    remove(path)
    path.write_bytes((empty_databases / "station.db").read_bytes())
    keeper.look()
    store.record_event(event(41), message)
    assert len(ids(path)) == 41
    (other,) = put_aside(path)
    assert other.name.startswith("station.db.replaced-")
    assert other.name in keeper.news
    assert ids(other) == set()


def test_nobody_makes_an_empty_file_in_its_place(
    store: StationStore, keeper: Keeper, path: Path
) -> None:
    """A connection that is opened after the removal says that it cannot."""
    store.database.engine.dispose()
    remove(path)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        store.n_pending()
    keeper.look()
    assert store.n_pending() == 30


def test_a_full_disk_delays_it_only(store: StationStore, keeper: Keeper, path: Path) -> None:
    """Nothing is lost by a try that failed."""
    remove(path)
    with full_disk(3 * PAGE), pytest.raises(StoreUnavailable, match="cannot be put back"):
        keeper.look()
    store.record_event(event(41), message)
    keeper.look()
    assert len(ids(path)) == 41


def test_a_damaged_page_costs_its_own_rows_only(
    store: StationStore, keeper: Keeper, path: Path, clock: FakeClock
) -> None:
    """Met by whoever reads it; the rest is saved, and the damaged file kept."""
    overwrite(path, leaf_of(store, path, "outbox"))
    with pytest.raises(DamagedDatabase):
        store.pending(0, 100)
    keeper.look()
    saved = ids(path)
    assert saved < {str(UUID(int=number)) for number in range(1, 41)}
    assert len(saved) > 10
    sequence = store.record_event(event(99), message)
    assert sequence > LEAP
    (damaged,) = put_aside(path)
    assert damaged.name in keeper.news
    assert "outbox" in keeper.news


def test_what_the_damaged_file_has_lost_comes_from_the_backup(
    store: StationStore, keeper: Keeper, path: Path, clock: FakeClock
) -> None:
    """The newest that is whole; what was confirmed then stays confirmed."""
    clock.advance(60)
    back_up(path, path.parent / "backups", 3, clock)
    clock.advance(60)
    newest = back_up(path, path.parent / "backups", 3, clock)
    overwrite(newest, 0)
    store.record_event(event(41), message)
    overwrite(path, leaf_of(store, path, "events"))
    with pytest.raises(DamagedDatabase):
        store.clips([str(UUID(int=n)) for n in range(1, 42)])
    keeper.look()
    assert ids(path) == {str(UUID(int=number)) for number in range(1, 42)}
    assert store.n_pending() == 31
    assert store.clips([str(UUID(int=7))])[str(UUID(int=7))].file == "7.flac"
    assert len(store.intervals(DAWN, DAWN + 10)) == 2


@pytest.mark.parametrize("pages", [[0], [0, 1, 2, 3]])
def test_a_station_starts_on_a_file_without_its_first_pages(
    store: StationStore, path: Path, clock: FakeClock, pages: list[int]
) -> None:
    """SQLite would read nothing of it."""
    store.close()
    for page in pages:
        overwrite(path, page)
    opened = open_station_db(path, path.parent / "backups", clock, has_run=True)
    assert opened.n_pending() > 5
    opened.close()
    assert len(put_aside(path)) == 1


def test_a_newer_or_foreign_file_is_not_taken_for_a_damaged_one(
    path: Path, clock: FakeClock, store: StationStore
) -> None:
    """It is refused, and stays as it is."""
    store.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'station_0999'")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="999"):
        open_station_db(path, path.parent / "backups", clock, has_run=True)
    assert path.read_bytes() == before
    assert put_aside(path) == []


def test_a_file_that_is_gone_is_told_and_its_numbers_are_not_given_again(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has rows of this station: a new order below theirs would stand before them."""
    path = tmp_path / "station.db"
    opened = open_station_db(path, tmp_path / "backups", clock, has_run=True)
    assert opened.record_event(event(1), message) == clock.wall() // 1_000_000 + 1
    opened.close()
    assert "was gone" in caplog.text
    remove(path)
    first = open_station_db(path, tmp_path / "backups", clock, has_run=False)
    assert first.record_event(event(1), message) == 1
    first.close()


def test_a_kill_between_two_names_loses_neither_file(
    path: Path, store: StationStore, clock: FakeClock
) -> None:
    """The whole one is found under the name that it had then."""
    store.close()
    path.rename(path.with_name("station.db.new"))
    opened = open_station_db(path, path.parent / "backups", clock, has_run=True)
    assert opened.n_pending() == 30
    opened.close()
