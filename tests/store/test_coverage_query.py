"""Coverage: intervals cut to what is asked, and no moment twice in their sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldstation.clock import US_PER_S
from fieldstation.coverage import Ledger
from fieldstation.records import AudioChunk, Hearing, Interval
from fieldstation.store.coverage_query import (
    CoverageSum,
    Stretch,
    coverage,
    cut_interval,
    own_coverage,
    sum_stretches,
)
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.store.examples import DAWN, MINUTE, interval

INSTANTS = st.integers(DAWN - 100 * MINUTE, DAWN + 100 * MINUTE)
SECOND = 1_000_000


def test_coverage_sums_by_station_state_and_cause(log: LogStore) -> None:
    """Intervals are cut to the time asked for; a clock step is told but is no time."""
    lost = interval(DAWN + MINUTE, 30.0, state=Hearing.LOST, cause="microphone")
    step = interval(DAWN + MINUTE, -3600.0, state=Hearing.CLOCK_STEP, cause="clock")
    heard = [interval(DAWN, 60.0), lost, step, interval(DAWN + 2 * MINUTE, 60.0)]
    log.record_coverage("garden", "k1", heard)
    log.record_coverage("pond", "k2", [interval(DAWN, 600.0)])
    found = coverage(log, DAWN + MINUTE // 2, DAWN + 3 * MINUTE)
    assert found.sums == (
        CoverageSum("garden", Hearing.CLOCK_STEP, "clock", -3600.0, 1),
        CoverageSum("garden", Hearing.HEARD, "", 90.0, 2),
        CoverageSum("garden", Hearing.LOST, "microphone", 30.0, 1),
        CoverageSum("pond", Hearing.HEARD, "", 150.0, 1),
    )
    first = interval(DAWN + MINUTE // 2, 30.0)
    assert found.stretches[0] == Stretch("garden", first)
    assert coverage(log, DAWN, DAWN + 1, station="pond").sums == (
        CoverageSum("pond", Hearing.HEARD, "", 1e-6, 1),
    )


def test_a_station_answers_from_its_own_ledger(store: StationStore) -> None:
    """The same question before the log has it."""
    store.record_intervals([interval(DAWN, 60.0), interval(DAWN + MINUTE, 60.0)])
    found = own_coverage(store, DAWN, DAWN + 90 * US_PER_S)
    assert found.sums == (CoverageSum("", Hearing.HEARD, "", 90.0, 2),)


@given(
    started_at=INSTANTS,
    duration_us=st.integers(1, 50 * MINUTE),
    cuts=st.lists(INSTANTS, max_size=6),
)
def test_days_cut_apart_sum_to_the_whole(
    started_at: int, duration_us: int, cuts: list[int]
) -> None:
    """However a time is divided, an interval's parts are disjoint and lose nothing."""
    whole = interval(started_at, duration_us / US_PER_S)
    edges = sorted({*cuts, DAWN - 200 * MINUTE, DAWN + 200 * MINUTE})
    parts = [
        part for since, until in pairwise(edges) if (part := cut_interval(whole, since, until))
    ]
    assert sum(part.duration_s for part in parts) == pytest.approx(whole.duration_s, abs=1e-6)
    assert parts[0].started_at == started_at
    assert all(part == replace(part, run_id=whole.run_id) for part in parts)


@given(at=INSTANTS, since=INSTANTS, until=INSTANTS)
def test_a_clock_step_is_in_one_day_only(at: int, since: int, until: int) -> None:
    """It has an instant, not an extent, though its duration may be negative."""
    step = Interval("run1", at, -7200.0, Hearing.CLOCK_STEP, "clock")
    assert (cut_interval(step, since, until) == step) is (since <= at < until)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(0, 30),
            st.sampled_from(["", "microphone", "stopped"]),
            st.sampled_from(["garden", "hedge"]),
        ),
        max_size=15,
    )
)
def test_no_second_counts_twice_however_intervals_overlap(
    told: list[tuple[int, int, str, str]],
) -> None:
    """Held against counting second by second; what was heard once was heard."""
    stretches = [
        Stretch(
            station,
            Interval(
                f"run{n}",
                start * SECOND,
                float(duration),
                Hearing.LOST if cause else Hearing.HEARD,
                cause,
            ),
        )
        for n, (start, duration, cause, station) in enumerate(told)
    ]
    sums = {(s.station, s.state): 0.0 for s in sum_stretches(stretches)}
    for s in sum_stretches(stretches):
        sums[s.station, s.state] += s.duration_s
    for station in {stretch.station for stretch in stretches}:
        seconds: dict[Hearing, set[int]] = {Hearing.HEARD: set(), Hearing.LOST: set()}
        for start, duration, cause, whose in told:
            if whose == station:
                state = Hearing.LOST if cause else Hearing.HEARD
                seconds[state].update(range(start, start + duration))
        heard = seconds[Hearing.HEARD]
        assert sums.get((station, Hearing.HEARD), 0.0) == len(heard)
        assert sums.get((station, Hearing.LOST), 0.0) == len(seconds[Hearing.LOST] - heard)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    runs=st.lists(
        st.lists(
            st.tuples(st.sampled_from(["heard", "gap", "wait", "step"]), st.floats(0.01, 5_000)),
            max_size=12,
        ),
        min_size=1,
        max_size=4,
    ),
    asked=st.tuples(st.floats(-20_000, 60_000), st.floats(1, 60_000)),
)
def test_coverage_adds_up_to_what_was_asked(
    fresh: Callable[[str], AbstractContextManager[Path]],
    runs: list[list[tuple[str, float]]],
    asked: tuple[float, float],
) -> None:
    """Runs, gaps, waits, and a clock that is set between and within them: nothing is negative."""
    with fresh("station.db") as path:
        clock, store = FakeClock(), StationStore(path)
        began = clock.wall()
        for number, happenings in enumerate(runs):
            live(Ledger(f"run{number}", clock, lambda i: store.record_intervals([i])), clock,
                 happenings, store.last_interval())  # fmt: skip
            clock.step(happenings[0][1] * (-1 if number % 2 else 1) if happenings else 0)
        since = began + round(asked[0] * SECOND)
        until = since + round(asked[1] * SECOND)
        found = own_coverage(store, since, until)
        store.close()
    known_s = sum(s.duration_s for s in found.sums if s.state is not Hearing.CLOCK_STEP)
    assert all(s.duration_s >= 0 for s in found.sums if s.state is not Hearing.CLOCK_STEP)
    assert known_s <= (until - since) / SECOND + 1e-3


def live(
    ledger: Ledger, clock: FakeClock, happenings: list[tuple[str, float]], last: Interval | None
) -> None:
    """Let a run hear, lose and wait."""
    if last:
        ledger.was_stopped(last.started_at + round(last.duration_s * SECOND))
    for what, seconds in happenings:
        if what == "step":
            clock.step(seconds if round(seconds * 10) % 2 else -seconds)
            continue
        clock.advance(seconds)
        if what == "wait":
            ledger.waited("microphone")
        else:
            gap = round(seconds * 500) if what == "gap" else 0
            ledger.heard(AudioChunk(np.zeros(1, np.float32), 1_000, 0, gap, ""))
    ledger.close()


def test_an_interval_that_grows_is_known_as_far_as_it_has_grown(store: StationStore) -> None:
    """In the place of what station.db holds of it, and also where that holds nothing yet."""
    store.record_intervals([interval(DAWN, duration_s=60.0)])
    grown = interval(DAWN, duration_s=64.0)
    new = interval(DAWN + 100 * SECOND, duration_s=3.0, run_id="other")
    for newest, heard_s in (
        (None, 60.0),
        (grown, 64.0),
        (new, 63.0),
        (replace(grown, duration_s=9.0), 60.0),
    ):
        found = own_coverage(store, DAWN, DAWN + 1_000 * SECOND, newest=newest)
        assert [s.duration_s for s in found.sums] == [heard_s]
