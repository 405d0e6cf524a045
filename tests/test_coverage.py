"""The coverage ledger adds up, whatever happens."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.coverage import FileLedger, Ledger, Pulse, read_pulse
from fieldstation.records import AudioChunk, FileOrigin, Hearing, Interval
from tests.fakes import FakeClock

RATE = 1_000


def chunk(seconds: float, gap_s: float = 0.0, captured_at: int = 0, cause: str = "") -> AudioChunk:
    samples = np.zeros(round(seconds * RATE), np.float32)
    return AudioChunk(samples, RATE, captured_at, round(gap_s * RATE), cause)


class Book:
    """Keeps the newest of the intervals with one start, as the database does."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, Hearing], Interval] = {}

    def __call__(self, interval: Interval) -> None:
        is_step = interval.state is Hearing.CLOCK_STEP
        self.rows[interval.started_at, Hearing.CLOCK_STEP if is_step else Hearing.HEARD] = interval

    def total_s(self) -> float:
        return sum(
            i.duration_s
            for i in self.rows.values()
            if i.state is not Hearing.CLOCK_STEP and i.cause != "stopped"
        )

    def by_cause(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for i in self.rows.values():
            sums[i.cause or i.state] = sums.get(i.cause or i.state, 0.0) + i.duration_s
        return sums


def test_a_gap_is_lost_and_the_rest_is_heard() -> None:
    """Starting, hearing, an overflow of two seconds, a microphone that goes: each has its time."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    clock.advance(1)
    ledger.waited("starting")
    for _ in range(10):
        clock.advance(1)
        ledger.heard(chunk(1))
    clock.advance(3)
    ledger.heard(chunk(1, gap_s=2, cause="overflow"))
    clock.advance(4)
    ledger.waited("microphone")
    ledger.close()
    assert book.by_cause() == pytest.approx(
        {"starting": 1, "heard": 11, "overflow": 2, "microphone": 4}
    )


def test_a_gap_that_is_noticed_late_is_counted_all_the_same() -> None:
    """Told when its time had passed as heard, it is taken from the time that follows."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    for second in range(20):
        clock.advance(1)
        ledger.heard(chunk(1, gap_s=3 if second == 9 else 0, cause="microphone"))
    ledger.close()
    assert book.by_cause() == pytest.approx({"heard": 17, "microphone": 3})


def test_a_wait_that_was_counted_is_not_counted_again_by_its_gap() -> None:
    """The first chunk after an absence tells all of it, of which the waits told most."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    clock.advance(1)
    ledger.heard(chunk(1))
    for _ in range(10):
        clock.advance(1)
        ledger.waited("microphone")
    clock.advance(1.5)
    ledger.heard(chunk(1, gap_s=10.5, cause="microphone"))
    clock.advance(5)
    ledger.heard(chunk(5))
    ledger.close()
    assert book.by_cause() == pytest.approx({"heard": 7, "microphone": 10.5})


def test_sound_that_is_only_late_was_heard() -> None:
    """A sound server that hiccups for a second loses nothing; a gap tells what is lost."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    for _ in range(3):
        clock.advance(1)
        ledger.heard(chunk(1))
    clock.advance(1.5)
    ledger.waited("microphone")
    ledger.heard(chunk(1.5))
    ledger.close()
    assert book.by_cause() == pytest.approx({"heard": 4.5})


def test_a_clock_step_is_a_row_of_its_own_and_no_interval_is_negative() -> None:
    """Setting the clock back an hour changes no duration and no order."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    for step in (0, -3600, 0, 7200):
        clock.step(step)
        clock.advance(5)
        ledger.heard(chunk(5))
    ledger.close()
    steps = [i for i in book.rows.values() if i.state is Hearing.CLOCK_STEP]
    assert [round(i.duration_s) for i in steps] == [-3600, 7200]
    assert book.total_s() == pytest.approx(20)
    assert all(i.duration_s >= 0 for i in book.rows.values() if i.state is not Hearing.CLOCK_STEP)


def test_the_time_until_the_first_sound_is_starting() -> None:
    """A microphone that takes a second to open was not heard meanwhile."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    clock.advance(1.05)
    ledger.heard(chunk(0.05))
    for _ in range(40):
        clock.advance(0.05)
        ledger.heard(chunk(0.05))
    ledger.close()
    assert book.by_cause() == pytest.approx({"starting": 1.0, "heard": 2.05})


def test_a_run_that_began_before_its_clock_was_set_tells_later_how_long_it_was_stopped() -> None:
    """A machine without a battery begins in 1970; the last run ended in 2025."""
    clock, book = FakeClock(wall=12_000_000), Book()
    ledger = Ledger("run", clock, book)
    ended_at = 1_750_000_000_000_000
    ledger.was_stopped(since=ended_at)
    clock.advance(10)
    ledger.heard(chunk(10))
    assert "stopped" not in book.by_cause()
    clock.step((ended_at - clock.wall()) / 1e6 + 3_600)
    clock.advance(5)
    ledger.heard(chunk(5))
    ledger.close()
    assert book.by_cause()["stopped"] == pytest.approx(3_590, abs=1e-3)
    assert book.by_cause()["heard"] == pytest.approx(15)
    assert sum(i.cause == "stopped" for i in book.rows.values()) == 1


def test_the_time_between_runs_is_stopped_by_the_wall_clock() -> None:
    """What no run heard is told by the next one."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    ledger.was_stopped(since=clock.wall() - 90_000_000)
    ledger.was_stopped(since=clock.wall() + 5)
    assert book.by_cause() == {"stopped": 90.0}


def test_an_open_interval_is_told_every_heartbeat() -> None:
    """A kill loses no more than the heartbeat."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book, heartbeat_s=5)
    for _ in range(17):
        clock.advance(1)
        ledger.heard(chunk(1))
    assert book.total_s() >= 17 - 5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["heard", "gap", "wait", "step"]),
            st.floats(0.01, 100, allow_nan=False),
        ),
        max_size=40,
    )
)
def test_intervals_sum_to_the_monotonic_time(happenings: list[tuple[str, float]]) -> None:
    """Whatever comes in whatever order, no moment is counted twice or forgotten."""
    clock, book = FakeClock(), Book()
    ledger = Ledger("run", clock, book)
    began = clock.monotonic()
    for what, seconds in happenings:
        if what == "step":
            clock.step(seconds if round(seconds * 10) % 2 else -seconds)
            continue
        clock.advance(seconds)
        if what == "wait":
            ledger.waited("microphone")
        else:
            ledger.heard(chunk(seconds / 2, gap_s=seconds if what == "gap" else 0))
    ledger.close()
    assert book.total_s() == pytest.approx(clock.monotonic() - began, abs=1e-6)


def test_a_files_intervals_stand_at_the_recordings_own_time() -> None:
    """Chunks of one recording are one interval; another recording is another."""
    told: list[Interval] = []
    ledger = FileLedger("run", told.append)
    for captured_at in (0, 1_000_000, 2_000_000, 60_000_000):
        ledger.heard(chunk(1, captured_at=captured_at))
    ledger.close()
    assert [(i.started_at, i.duration_s) for i in told] == [(0, 3.0), (60_000_000, 1.0)]


def test_recordings_that_follow_on_one_another_are_an_interval_each() -> None:
    """A recorder writes hour after hour: each is known by its own content, heard again or not."""
    told: list[Interval] = []
    ledger = FileLedger("run", told.append)
    for hour, content in enumerate(("ab", "cd")):
        recording = FileOrigin(f"{hour}.wav", content * 32, 0)
        ledger.heard(replace(chunk(1, captured_at=hour * 1_000_000), file=recording))
    ledger.close()
    assert [(i.run_id[:7], i.duration_s) for i in told] == [("file-ab", 1.0), ("file-cd", 1.0)]


def test_the_time_before_a_pipe_is_stopped_and_before_a_recording_it_is_not() -> None:
    """A recording's own time may lie anywhere."""
    told: list[Interval] = []
    ledger = FileLedger("run", told.append)
    ledger.was_stopped(since=10_000_000)
    recording = FileOrigin("a.wav", "ab" * 32, 0)
    ledger.heard(replace(chunk(1, captured_at=3_000_000), file=recording))
    ledger.heard(chunk(1, captured_at=70_000_000))
    ledger.heard(chunk(1, captured_at=90_000_000))
    ledger.close()
    stops = [(i.started_at, i.duration_s) for i in told if i.cause == "stopped"]
    assert stops == [(10_000_000, 60.0)]


def test_a_pulse_is_read_as_it_was_kept() -> None:
    """Every few seconds, and whatever else stands in the file is none."""
    kept: list[dict[str, object]] = []
    pulse = Pulse(kept.append)
    interval = Interval("run", 5, 60.0, Hearing.LOST, "microphone")
    for second in range(9):
        pulse.beat(second, interval)
    pulse.beat(20, None)
    assert len(kept) == 3
    assert read_pulse(json.loads(json.dumps(kept[0]))) == interval
    for damaged in ({}, {**kept[0], "state": "?"}, {**kept[0], "started_at": "5"}):
        assert read_pulse(damaged) is None


def test_a_pulse_that_the_disk_refuses_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once."""

    def refuse(_: dict[str, object]) -> None:
        raise OSError(28, "No space left on device")

    pulse = Pulse(refuse)
    for second in range(0, 60, 5):
        pulse.beat(second, Interval("run", 5, 60.0, Hearing.HEARD))
    assert len(caplog.records) == 1


def test_a_pipe_that_plays_for_days_is_told_every_heartbeat() -> None:
    """A kill loses no more of a pipe's coverage than of a microphone's."""
    clock, told = FakeClock(), []
    ledger = FileLedger("run", told.append, clock, heartbeat_s=5)
    for second in range(12):
        clock.advance(1)
        ledger.heard(chunk(1, captured_at=second * 1_000_000))
    assert [i.duration_s for i in told] == [5.0, 10.0]
    assert {i.started_at for i in told} == {0}
