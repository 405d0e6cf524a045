"""The thread that writes station.db."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from fieldstation.records import ClipState, Hearing, Message
from fieldstation.store.errors import StoreError
from fieldstation.store.keeper import Keeper
from fieldstation.store.station_db import Clip, StationStore
from fieldstation.store.writer import BATCH, MAX_RECEIPTS_WAITING, StoreThread
from tests.fakes import FakeClock
from tests.mqtt.fakes import until
from tests.store.conftest import full_disk
from tests.store.examples import DAWN, event, interval, message

PATIENCE_S = 20.0
"""Far beyond what any wait here takes; reached only where something is broken"""


@contextmanager
def running(writer: StoreThread) -> Iterator[None]:
    """Run the stage in a thread, and stop it."""
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop, lambda: None))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock as another program would."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def retry(writer: StoreThread) -> None:
    """Step until a batch was written."""
    while not writer.step(1.0):
        pass


def test_everything_posted_is_on_the_disk_after_drain(
    store: StationStore, clock: FakeClock
) -> None:
    """Each kind of request does what the store's own method does."""
    writer = StoreThread(store)
    with running(writer):
        writer.post_event(event(1), message)
        writer.post_event(event(2), message)
        writer.post_event(event(3), message, ClipState.OFF)
        writer.post_message("summary", Message("s", b"4"))
        writer.post_confirm([str(UUID(int=1)), str(UUID(int=2))])
        writer.post_clip_state(UUID(int=3), ClipState.WRITTEN, "3.flac")
        writer.post_interval(interval())
        assert writer.drain(PATIENCE_S)
        assert [row.sequence for row in store.pending()] == [3, 4]
        assert store.clips([str(UUID(int=3))])[str(UUID(int=3))].file == "3.flac"
        assert store.intervals(DAWN, DAWN + 1) == [interval()]
        writer.post_prune(clock.wall() + 1)
        assert writer.drain(PATIENCE_S)
    assert set(store.clips([str(UUID(int=n)) for n in (1, 2, 3)])) == {str(UUID(int=3))}


def test_what_waits_goes_into_one_transaction(store: StationStore) -> None:
    """A batch has a bound; the publisher is woken once a commit."""
    commits: list[int] = []
    writer = StoreThread(store, on_committed=lambda: commits.append(store.n_pending()))
    for number in range(1, BATCH + 3):
        writer.post_event(event(number), message)
    assert writer.step(0.0) == BATCH
    assert writer.step(0.0) == 2
    assert writer.step(0.0) == 0
    assert commits == [BATCH, BATCH + 2]


def test_what_is_left_at_the_stop_is_written(store: StationStore) -> None:
    """A stop that is already set when the stage starts still empties the queue."""
    writer = StoreThread(store)
    for number in range(1, 2 * BATCH):
        writer.post_event(event(number), message)
    stop = threading.Event()
    stop.set()
    beats: list[None] = []
    writer.run(stop, lambda: beats.append(None))
    assert store.n_pending() == 2 * BATCH - 1
    assert len(beats) == 2


def test_a_lock_is_told_once_and_waited_for(
    store: StationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is posted meanwhile stays in order, and nothing is lost."""
    caplog.set_level(logging.INFO)
    writer = StoreThread(store)
    with locked(tmp_path / "station.db"):
        for number in (1, 2, 3):
            writer.post_event(event(number), message)
            writer.step(1.0)
        state = writer.state()
        assert state.n_waiting == 3
        assert "locked by another process" in (state.fault or "")
    retry(writer)
    assert writer.state().fault is None
    assert [row.message.payload for row in store.pending()] == [b"1", b"2", b"3"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_race_for_the_wal_is_waited_out(store: StationStore) -> None:
    """SQLite gives up after ten seconds of it, and not because of what was to be written."""
    race = sqlite3.OperationalError("locking protocol")
    race.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    races = [race]

    def compose(sequence: int) -> Message:
        if races:
            raise races.pop()
        return message(sequence)

    writer = StoreThread(store)
    writer.post_event(event(1), compose)
    assert writer.step(0.1) == 0
    retry(writer)
    assert len(store.pending()) == 1


def test_a_full_disk_is_waited_for(store: StationStore, tmp_path: Path) -> None:
    """A transaction that did not fit is whole again when there is space."""
    store.record_event(event(1), message)
    writer = StoreThread(store)
    wal_bytes = (tmp_path / "station.db-wal").stat().st_size
    with full_disk(wal_bytes + 8_192):
        for number in range(2, 50):
            writer.post_event(event(number), message)
        assert writer.step(0.0) == 0
        assert "check its free space" in (writer.state().fault or "")
        assert store.n_pending() == 1
    retry(writer)
    assert [row.sequence for row in store.pending()] == list(range(1, 50))
    with sqlite3.connect(tmp_path / "station.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_stop_tries_a_disk_at_once_that_refused_before(
    store: StationStore, tmp_path: Path
) -> None:
    """However far away its next try was."""
    writer = StoreThread(store, finish_s=5.0)
    with locked(tmp_path / "station.db"):
        writer.post_event(event(1), message)
        for _ in range(12):
            writer._retry_at = 0.0
            writer.step(0.0)
        assert writer._retry_at > time.monotonic() + 5
    stop = threading.Event()
    stop.set()
    writer.run(stop, lambda: None)
    assert store.n_pending() == 1


def test_a_stop_gives_up_after_its_time(
    store: StationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that never comes back does not keep the station from stopping; the loss is told."""
    writer = StoreThread(store, finish_s=0.2)
    stop = threading.Event()
    stop.set()
    writer.post_event(event(1), message)
    with locked(tmp_path / "station.db"):
        writer.run(stop, lambda: None)
    assert "stopped with 1 requests unwritten" in caplog.text
    assert not writer.drain(0.0)


def test_one_request_that_cannot_be_written_costs_no_other(store: StationStore) -> None:
    """The rest is on the disk before the error ends the stage."""

    def fail(sequence: int) -> Message:
        raise ValueError("no such message")

    writer = StoreThread(store)
    for number in (1, 2, 3, 4):
        writer.post_event(event(number), fail if number == 2 else message)
    with pytest.raises(ValueError, match="no such message"):
        writer.run(threading.Event(), lambda: None)
    assert [(row.sequence, row.id) for row in store.pending()] == [
        (1, str(UUID(int=1))),
        (2, str(UUID(int=3))),
        (3, str(UUID(int=4))),
    ]


def test_a_damaged_database_ends_the_stage(store: StationStore, tmp_path: Path) -> None:
    """What no retry mends is not retried."""
    store.record_event(event(1), message)
    store.close()
    path = tmp_path / "station.db"
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    writer = StoreThread(store)
    writer.post_event(event(2), message)
    with pytest.raises(StoreError, match="is damaged or no database"):
        writer.run(threading.Event(), lambda: None)


def test_a_keeper_brings_a_damaged_database_back(
    store: StationStore, tmp_path: Path, clock: FakeClock
) -> None:
    """What was posted meanwhile is written then, and the fault is over."""
    path = tmp_path / "station.db"
    store.record_event(event(1), message)
    keeper = Keeper(store.database, path, tmp_path / "backups", clock)
    writer = StoreThread(store, keeper=keeper)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    damaged = path.read_bytes()
    path.write_bytes(damaged[:4096] + b"\xff" * (len(damaged) - 4096))
    with running(writer):
        writer.post_event(event(2), message)
        until(lambda: writer.drain(PATIENCE_S))  # which waits shortly for a file that is mended
    assert writer.state().fault is None
    assert str(UUID(int=2)) in {row.id for row in store.pending()}
    assert "was damaged" in keeper.news
    keeper.close()


def test_a_growing_interval_waits_once(store: StationStore, tmp_path: Path) -> None:
    """However long the disk is away, an open interval takes one place in memory."""
    writer = StoreThread(store)
    with locked(tmp_path / "station.db"):
        for seconds in range(1, 100):
            writer.post_interval(interval(duration_s=float(seconds)))
        assert writer.state().n_waiting == 1
        writer.step(0.0)
        lost = interval(DAWN + 1, state=Hearing.LOST, cause="disk")
        for other in (lost, interval(duration_s=200.0)):
            writer.post_interval(other)
        assert writer.state().n_waiting == 3
    retry(writer)
    assert store.intervals(0, 2 * DAWN) == [interval(duration_s=200.0), lost]


def test_an_interval_that_is_being_written_is_not_replaced(store: StationStore) -> None:
    """What grows while its transaction runs comes after it."""
    writer: StoreThread
    grown = interval(duration_s=9.0)

    def compose(sequence: int) -> Message:
        writer.post_interval(grown)
        return message(sequence)

    writer = StoreThread(store)
    writer.post_event(event(1), compose)
    writer.post_interval(interval(duration_s=5.0))
    assert writer.step(0.0) == 2
    assert store.intervals(DAWN, DAWN + 1) == [interval(duration_s=5.0)]
    assert writer.step(0.0) == 1
    assert store.intervals(DAWN, DAWN + 1) == [grown]


def test_receipts_are_bounded_events_are_not(store: StationStore, tmp_path: Path) -> None:
    """A receipt comes again with its message; an event never does."""
    writer = StoreThread(store)
    with locked(tmp_path / "station.db"):
        for _ in range(MAX_RECEIPTS_WAITING + 5):
            writer.post_confirm([str(UUID(int=1))])
        writer.post_event(event(1), message)
    state = writer.state()
    assert (state.n_waiting, state.n_receipts_dropped) == (MAX_RECEIPTS_WAITING + 1, 5)
    while writer.step(0.0):
        pass
    assert store.n_pending() == 1
    writer.post_confirm([str(UUID(int=1))])
    assert writer.step(0.0) == 1
    assert store.n_pending() == 0


def test_a_clip_is_noted_after_its_event(store: StationStore) -> None:
    """Requests are applied in the order they were posted, within a transaction too."""
    writer = StoreThread(store)
    writer.post_event(event(1), message)
    writer.post_clip_state(UUID(int=1), ClipState.WITHHELD)
    writer.step(0.0)
    assert store.clips([str(UUID(int=1))]) == {str(UUID(int=1)): Clip(ClipState.WITHHELD, None)}


def fill(writer: StoreThread, n: int, first: int = 1) -> None:
    """Post events whose messages are 10 kB, and write them."""
    for number in range(first, first + n):
        writer.post_event(event(number), lambda _: Message("topic", bytes(10_000)), ClipState.OFF)
    while writer.step(0.0):
        pass


def test_a_full_outbox_has_no_room_until_the_log_has_confirmed(
    store: StationStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It says when it is nearly full, when it is full, and when no more; nothing is dropped."""
    writer = StoreThread(store, max_bytes=1_000_000)
    fill(writer, 20)
    assert (writer.has_room(), writer.state().shortage) == (True, "")
    fill(writer, 50, first=21)
    assert writer.has_room()
    assert "of 1 MB" in writer.state().shortage
    fill(writer, 50, first=71)
    assert not writer.has_room()
    assert "is full" in writer.state().shortage
    assert store.n_pending() == 120
    writer.post_confirm(str(UUID(int=number)) for number in range(1, 101))
    writer.step(0.0)
    assert (writer.has_room(), writer.state().shortage) == (True, "")
    assert store.n_pending() == 20
    lines = [r.getMessage() for r in caplog.records]
    assert [("is full" in line, "has room" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


def test_delivered_events_give_way_before_anything_else(store: StationStore) -> None:
    """They are in the log; here they are kept for convenience, or until their clip is noted."""
    writer = StoreThread(store, max_bytes=1_000_000)
    for first in range(1, 400, 50):
        fill(writer, 50, first)
        writer.post_confirm(str(UUID(int=number)) for number in range(first, first + 50))
        writer.step(0.0)
        assert writer.has_room()
    assert store.n_bytes() < 1_000_000


def test_an_event_whose_clip_is_still_to_be_noted_stays(store: StationStore) -> None:
    """Else its recording would belong to nothing."""
    for number, state in enumerate((ClipState.WAITING, ClipState.WRITTEN), start=1):
        store.record_event(event(number), message, state)
        store.confirm([str(UUID(int=number))])
    assert store.drop_delivered(10) == 1
    assert [*store.clips(str(UUID(int=n)) for n in (1, 2))] == [str(UUID(int=1))]


def test_a_store_without_a_limit_always_has_room(store: StationStore) -> None:
    """A recording waits for nobody: it can be heard again."""
    writer = StoreThread(store)
    fill(writer, 120)
    assert (writer.has_room(), writer.state().shortage) == (True, "")


def test_a_store_that_is_full_at_the_start_has_no_room(store: StationStore) -> None:
    """It was full when the last run ended."""
    fill(StoreThread(store), 120)
    writer = StoreThread(store, max_bytes=1_000_000)
    writer.step(0.0)
    assert not writer.has_room()
