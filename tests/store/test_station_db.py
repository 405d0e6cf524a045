"""station.db: events, outbox, coverage."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldstation.records import ClipState, Hearing, Message
from fieldstation.store.errors import StoreBusy, StoreUnavailable
from fieldstation.store.station_db import Clip, StationStore
from tests.fakes import FakeClock
from tests.store.conftest import without_rights
from tests.store.examples import DAWN, MINUTE, event, interval, message


def test_an_event_and_its_message_are_written_together(store: StationStore) -> None:
    """The message carries the place in the order that it really has."""
    assert store.record_event(event(1), message) == 1
    assert store.record_event(event(2), message) == 2
    assert [(row.sequence, row.id, row.message.payload) for row in store.pending()] == [
        (1, str(UUID(int=1)), b"1"),
        (2, str(UUID(int=2)), b"2"),
    ]


def test_every_field_of_an_event_is_kept(store: StationStore, tmp_path: Path) -> None:
    """What was heard can be read back from the file with any SQLite tool."""
    heard = event(1)
    store.record_event(heard, message)
    with sqlite3.connect(tmp_path / "station.db") as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM events").fetchone())
    embedding = np.frombuffer(row.pop("embedding"), "<f2")
    np.testing.assert_allclose(embedding, heard.embedding, atol=5e-4)
    assert row == {
        "id": str(heard.id),
        "scientific_name": "Parus major",
        "common_name": "Great Tit",
        "started_at": DAWN,
        "ended_at": DAWN + 3_000_000,
        "probability": 0.875,
        "threshold": 0.5,
        "encoder_id": "0123456789abcdef",
        "n_windows": 2,
        "file_path": "dawn.flac",
        "content_hash": "ab" * 32,
        "first_sample": 44_100,
        "clip_state": "waiting",
        "clip_file": None,
    }


def test_an_id_again_changes_nothing(store: StationStore) -> None:
    """A replay gets the old place, and no second message."""
    store.record_event(event(1), message)
    store.record_event(event(2), message)
    assert store.record_event(event(1, probability=0.1), message) == 1
    assert store.post_message(str(UUID(int=2)), Message("other", b"")) == 2
    assert [row.message.payload for row in store.pending()] == [b"1", b"2"]


def test_an_event_without_its_message_is_not_written(store: StationStore, tmp_path: Path) -> None:
    """Where composing fails, neither is there, and the place is not used up."""

    def fail(sequence: int) -> Message:
        raise ValueError(f"no message {sequence}")

    with pytest.raises(ValueError, match="no message 1"):
        store.record_event(event(1), fail)
    with sqlite3.connect(tmp_path / "station.db") as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
    assert store.record_event(event(2), message) == 1


def test_pending_pages_in_order(store: StationStore) -> None:
    """The publisher goes on after what it has in flight."""
    for number in range(1, 6):
        store.record_event(event(number), message)
    assert [row.sequence for row in store.pending(after=0, limit=2)] == [1, 2]
    assert [row.sequence for row in store.pending(after=2, limit=2)] == [3, 4]
    assert [row.sequence for row in store.pending(after=5)] == []


def test_a_confirmed_message_is_done(store: StationStore) -> None:
    """Only ids that waited count; unknown ones and repeats change nothing."""
    for number in (1, 2, 3):
        store.record_event(event(number), message)
    assert store.confirm([str(UUID(int=2)), "unknown"]) == 1
    assert store.confirm([str(UUID(int=2))]) == 0
    assert store.confirm([]) == 0
    assert [row.sequence for row in store.pending()] == [1, 3]
    assert store.n_pending() == 2


def test_a_message_comes_back_as_it_was(store: StationStore) -> None:
    """Topic, bytes, retain and qos survive."""
    posted = Message("fieldstation/garden/coverage", b"\x00\xff", retain=True, qos=0)
    store.post_message("coverage-1", posted)
    assert store.pending()[0].message == posted


def test_waiting_yields_events_only(store: StationStore) -> None:
    """Summaries and coverage are no detections; what is confirmed no longer waits."""
    store.record_event(event(1), message)
    store.post_message("summary", Message("s", b""))
    store.record_event(event(2), message)
    store.confirm([str(UUID(int=1))])
    assert [row.sequence for row in store.waiting()] == [3]


def test_prune_forgets_what_was_delivered_long_ago(
    store: StationStore, clock: FakeClock, tmp_path: Path
) -> None:
    """What waits stays however old it is, and no place in the order is given twice."""
    for number in (1, 2, 3):
        store.record_event(event(number), message)
    store.confirm([str(UUID(int=1)), str(UUID(int=3))])
    old, new = clock.wall() - 1, clock.wall() + 1
    assert store.prune(before=old) == 0
    assert store.prune(before=new) == 2
    with sqlite3.connect(tmp_path / "station.db") as connection:
        assert connection.execute("SELECT id FROM events").fetchall() == [(str(UUID(int=2)),)]
    assert store.record_event(event(4), message) == 4


def test_prune_forgets_coverage_that_ended_before(store: StationStore) -> None:
    """An interval that reaches beyond the instant stays."""
    past, lasting = interval(DAWN, 60), interval(DAWN + MINUTE, 120)
    step = interval(DAWN + 1, -3600.0, state=Hearing.CLOCK_STEP, cause="clock")
    store.record_intervals([past, lasting, step])
    store.prune(before=DAWN + 2 * MINUTE)
    assert store.intervals(0, 2 * DAWN) == [lasting]


def test_a_clip_is_noted(store: StationStore) -> None:
    """State and file name are kept per event."""
    store.record_event(event(1), message)
    store.record_event(event(2), message, ClipState.OFF)
    assert store.set_clip(UUID(int=1), ClipState.WRITTEN, "1.flac")
    assert not store.set_clip(UUID(int=9), ClipState.WRITTEN, "9.flac")
    assert store.clips([str(UUID(int=n)) for n in (1, 2, 9)]) == {
        str(UUID(int=1)): Clip(ClipState.WRITTEN, "1.flac"),
        str(UUID(int=2)): Clip(ClipState.OFF, None),
    }


def test_clips_of_an_ended_run_are_found_or_missing(store: StationStore) -> None:
    """The ring that held their sound is gone; those already decided stay."""
    states = ClipState.WAITING, ClipState.WITHHELD, ClipState.WAITING
    ids = [str(UUID(int=number)) for number in (1, 2, 3)]
    for number, state in enumerate(states, start=1):
        store.record_event(event(number), message, state)
    assert store.settle_clips({ids[2]: "3.flac"}.get) == 1
    clips = store.clips(ids)
    assert [clips[id] for id in ids] == [
        Clip(ClipState.MISSING, None),
        Clip(ClipState.WITHHELD, None),
        Clip(ClipState.WRITTEN, "3.flac"),
    ]


def test_the_open_interval_grows_in_place(store: StationStore) -> None:
    """The same run, start and state is one row; it never shrinks."""
    for duration_s in (5.0, 15.0, 10.0):
        store.record_intervals([interval(DAWN, duration_s)])
    assert store.intervals(DAWN, DAWN + 1) == [interval(DAWN, 15.0)]


def test_a_clock_step_stands_beside_the_interval_of_its_instant(store: StationStore) -> None:
    """Both are found, in the order they were told, although the wall clock went back."""
    step = interval(DAWN, -3600.0, state=Hearing.CLOCK_STEP, cause="clock")
    after = interval(DAWN - 60 * MINUTE, 4.0)
    store.record_intervals([interval(DAWN, 2.0), step, after])
    assert store.intervals(0, 2 * DAWN) == [interval(DAWN, 2.0), step, after]
    assert store.last_interval() == after


def test_intervals_are_those_that_touch_the_time(store: StationStore) -> None:
    """Half open: what ends at the beginning, or begins at the end, is not meant."""
    before, over, inside, later = (
        interval(DAWN - 2 * MINUTE, 120),
        interval(DAWN - MINUTE, 90, state=Hearing.LOST, cause="microphone"),
        interval(DAWN + MINUTE, 1),
        interval(DAWN + 2 * MINUTE, 1),
    )
    store.record_intervals([before, over, inside, later])
    assert store.intervals(DAWN, DAWN + 2 * MINUTE) == [over, inside]


def test_a_recording_s_interval_is_not_when_the_station_last_heard(store: StationStore) -> None:
    """Else, after a recording of 2019, `stopped` would cover years in which the station heard."""
    live = interval(DAWN, 60.0)
    of_a_file = replace(interval(DAWN - 365 * 1_440 * MINUTE, 60.0), run_id="file-" + "ab" * 12)
    store.record_intervals([live, of_a_file])
    assert store.last_interval() == live


def test_a_new_station_has_no_last_interval_and_no_meta(store: StationStore) -> None:
    """Nothing is there before the first run; a value once set is replaced."""
    assert store.last_interval() is None
    assert store.meta("run") is None
    store.set_meta("run", "1")
    store.set_meta("run", "2")
    assert store.meta("run") == "2"


def test_a_lock_held_elsewhere_is_waited_for_and_named(store: StationStore, tmp_path: Path) -> None:
    """A writer is told who is in the way; a reader is not disturbed."""
    store.record_event(event(1), message)
    other = sqlite3.connect(tmp_path / "station.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match=r"station\.db is locked by another process"):
        store.record_event(event(2), message)
    assert store.n_pending() == 1
    other.execute("ROLLBACK")
    other.close()
    assert store.record_event(event(2), message) == 2


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """Each reads, then writes: begun otherwise, the second would be refused without a wait."""
    path = tmp_path / "station.db"

    def write(first: int) -> list[int]:
        store = StationStore(path, timeout_s=30.0)
        places = [store.record_event(event(n), message) for n in range(first, first + 40)]
        store.close()
        return places

    StationStore(path).close()
    with ThreadPoolExecutor() as pool:
        places = list(pool.map(write, (1, 101, 201)))
    assert sorted(chain.from_iterable(places)) == list(range(1, 121))


def test_a_reader_sees_a_live_database_it_may_not_write(public_folder: Path) -> None:
    """Anyone who may read the folder may ask a running station; nobody writes by asking."""
    path = public_folder / "station.db"
    store = StationStore(path)
    store.record_event(event(1), message)
    with without_rights(public_folder):
        reader = StationStore(path, readonly=True)
        assert reader.n_pending() == 1
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            reader.record_event(event(2), message)
        reader.close()
    store.close()


def test_a_reader_sees_a_stopped_database_it_may_not_write(public_folder: Path) -> None:
    """Without a -wal all is in the file, which is then read as it lies."""
    path = public_folder / "station.db"
    store = StationStore(path)
    store.record_event(event(1), message)
    store.close()
    assert [p.name for p in public_folder.iterdir()] == ["station.db"]
    with without_rights(public_folder):
        reader = StationStore(path, readonly=True)
        assert [row.sequence for row in reader.waiting()] == [1]
        reader.close()
    assert [p.name for p in public_folder.iterdir()] == ["station.db"]


def test_a_reader_is_not_shown_half_of_a_database(public_folder: Path) -> None:
    """Where a -wal is left that this user cannot replay, an error, not an old state."""
    store = StationStore(public_folder / "live.db")
    store.record_event(event(1), message)
    for ending in ("", "-wal"):
        left = (public_folder / f"live.db{ending}").read_bytes()
        (public_folder / f"killed.db{ending}").write_bytes(left)
    store.close()
    with (
        without_rights(public_folder),
        pytest.raises(StoreUnavailable, match=r"killed\.db cannot be opened"),
    ):
        StationStore(public_folder / "killed.db", readonly=True)


KILLED_CHILD = """
import sys, threading
from pathlib import Path
from fieldstation.store.station_db import StationStore
from fieldstation.store.writer import StoreThread
from tests.store.examples import event, message

writer = StoreThread(StationStore(Path(sys.argv[1])))
threading.Thread(target=writer.run, args=(threading.Event(), lambda: None), daemon=True).start()
for number in range(1, 1_000_000):
    writer.post_event(event(number), message)
    if number % 3 == 0 and writer.drain(10):
        print(number, flush=True)
"""


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    """Every event that was said to be on the disk is there, once, in order, with its message."""
    path = tmp_path / "station.db"
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_CHILD, str(path)], stdout=subprocess.PIPE, cwd=root, text=True
    )
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(40)]
    child.kill()
    said += [int(line) for line in child.stdout if line.endswith("\n")]
    child.wait()
    child.stdout.close()
    store = StationStore(path)
    rows = store.pending(limit=1_000_000)
    store.close()
    assert len(rows) >= said[-1]
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    assert [row.id for row in rows] == [str(UUID(int=n)) for n in range(1, len(rows) + 1)]
    assert [row.message.payload for row in rows] == [b"%d" % row.sequence for row in rows]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["event", "message", "confirm", "prune"]), st.integers(1, 8)),
        max_size=20,
    )
)
def test_the_order_is_that_of_first_appearance(
    fresh: Callable[[str], AbstractContextManager[Path]], steps: list[tuple[str, int]]
) -> None:
    """Whatever is repeated, confirmed or pruned: places rise, and what waits waits in order."""
    clock = FakeClock()
    with fresh("station.db") as path:
        store = StationStore(path, clock)
        place: dict[str, int] = {}
        waiting: list[str] = []
        n_given = 0
        for action, number in steps:
            clock.advance(1)
            id = str(UUID(int=number))
            if action == "confirm":
                assert store.confirm([id]) == (id in waiting)
                waiting = [other for other in waiting if other != id]
            elif action == "prune":
                store.prune(clock.wall())
                place = {known: place[known] for known in waiting}
            else:
                if id not in place:
                    n_given += 1
                    place[id] = n_given
                    waiting.append(id)
                if action == "event":
                    assert store.record_event(event(number), message) == place[id]
                else:
                    assert store.post_message(id, Message("t", b"")) == place[id]
            assert [row.id for row in store.pending()] == waiting
        store.close()


def test_receipts_are_forgotten_of_what_a_log_keeps(store: StationStore) -> None:
    """A restored log is told again what it may have lost; a summary is not told twice."""
    store.post_message("a", Message("fieldstation/hedge/detection", b"1"))
    store.post_message("b", Message("fieldstation/hedge/coverage", b"2"))
    store.post_message("c", Message("fieldstation/hedge/summary", b"3"))
    store.post_message("d", Message("fieldstation/hedge/detection", b"4"))
    store.confirm(["a", "b", "c"])
    with store.transaction() as transaction:
        assert transaction.forget_receipts() == 2
    assert [row.id for row in store.pending()] == ["a", "b", "d"]


def test_an_event_that_lost_its_message_is_found_and_told_as_it_was(store: StationStore) -> None:
    """Every field comes back, the embedding as exactly as it was stored."""
    first, second = event(1), event(2, file=None, embedding=None)
    for one in (first, second, event(3)):
        store.record_event(one, message)
    with store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM outbox WHERE sequence < 3")
    found = store.untold()
    assert [one.id for one in found] == [first.id, second.id]
    for mine, theirs in zip(found, (first, second), strict=True):
        told, was = (asdict(replace(one, embedding=None)) for one in (mine, theirs))
        assert told == was
    assert found[0].embedding == pytest.approx(first.embedding, abs=1e-3)
    assert [store.record_event(one, message) for one in found] == [4, 5]
    assert store.untold() == []
