"""Questions people ask of the log."""

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
from sqlalchemy import event

from fieldstation.clock import US_PER_S
from fieldstation.coverage import Ledger
from fieldstation.records import AudioChunk, Detection, Hearing, Interval
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import (
    MOST_UNITED,
    CoverageSum,
    Filter,
    SpeciesCount,
    Stretch,
    coverage,
    cut_interval,
    detections,
    matches,
    own_coverage,
    species,
    sum_stretches,
)
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.store.examples import DAWN, MINUTE, detection, interval

DAY = 24 * 60 * MINUTE
GREAT_TIT = detection(1)
BLUE_TIT = detection(
    2,
    scientific_name="Cyanistes caeruleus",
    common_name="Blue Tit",
    started_at=DAWN + MINUTE,
    probability=0.6,
)
OWL = detection(
    3,
    scientific_name="Strix aluco",
    common_name="Öster-Eule",
    station="pond",
    started_at=DAWN + 2 * MINUTE,
)
LATER_TIT = detection(4, common_name="Kohlmeise", started_at=DAWN + DAY, probability=0.95)
ALL = [LATER_TIT, OWL, BLUE_TIT, GREAT_TIT]


@pytest.fixture
def heard(log: LogStore) -> LogStore:
    """A log with four detections of three species by two stations."""
    log.record(ALL, DAWN)
    return log


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ALL),
        (Filter(limit=2), ALL[:2]),
        (Filter(species="parus MAJOR"), [LATER_TIT, GREAT_TIT]),
        (Filter(species="great tit"), [LATER_TIT, GREAT_TIT]),
        (Filter(species="tit"), [LATER_TIT, BLUE_TIT, GREAT_TIT]),
        (Filter(species="öster-eule"), [OWL]),
        (Filter(species="%"), []),
        (Filter(species="reat"), []),
        (Filter(since=DAWN + MINUTE), ALL[:3]),
        (Filter(until=DAWN + MINUTE), [GREAT_TIT]),
        (Filter(since=DAWN + MINUTE, until=DAWN + DAY), [OWL, BLUE_TIT]),
        (Filter(min_probability=0.875), [LATER_TIT, OWL, GREAT_TIT]),
        (Filter(station="pond"), [OWL]),
        (Filter(station="pond", species="tit"), []),
    ],
)
def test_a_filter_chooses_newest_first(
    heard: LogStore, wanted: Filter, expected: list[Detection]
) -> None:
    """Every condition by itself and together; names by any word, in either case."""
    assert list(detections(heard, wanted)) == expected


def test_at_the_same_instant_the_order_is_fixed(log: LogStore) -> None:
    """Two species in one window come in the same order every time."""
    log.record([detection(n) for n in (2, 1, 3)], DAWN)
    assert list(detections(log, Filter())) == [detection(n) for n in (3, 2, 1)]


def test_more_species_than_one_question_can_unite(log: LogStore) -> None:
    """SQLite takes 500 of them; a word's beginning may mean more."""
    birds = [f"Avis {number:03d}" for number in range(MOST_UNITED + 1)]
    log.record(
        [
            detection(n, scientific_name=bird, common_name=f"Bird {n}", started_at=DAWN + n)
            for n, bird in enumerate(birds)
        ],
        DAWN,
    )
    newest = detections(log, Filter(species="bird", limit=2))
    assert [d.scientific_name for d in newest] == birds[:-3:-1]


def test_species_are_counted(heard: LogStore) -> None:
    """Most heard first, under the name that was told last."""
    assert species(heard, Filter()) == [
        SpeciesCount("Parus major", "Kohlmeise", 2, DAWN, DAWN + DAY, 0.95),
        SpeciesCount("Cyanistes caeruleus", "Blue Tit", 1, DAWN + MINUTE, DAWN + MINUTE, 0.6),
        SpeciesCount("Strix aluco", "Öster-Eule", 1, DAWN + 2 * MINUTE, DAWN + 2 * MINUTE, 0.875),
    ]
    assert [one.n for one in species(heard, Filter(until=DAWN + MINUTE))] == [1]
    assert species(heard, Filter(species="magpie")) == []


def test_a_long_answer_is_not_held_in_memory(heard: LogStore) -> None:
    """The first row is there although the rest was not asked for, and the log stays usable."""
    answer = detections(heard, Filter())
    assert next(answer) == LATER_TIT
    answer.close()
    assert len(list(detections(heard, Filter()))) == 4


@pytest.mark.parametrize(
    ("typed", "is_meant"),
    [
        ("Great Tit", True),
        ("great  tit ", True),
        ("t", True),
        ("major", True),
        ("it", False),
        ("Great Tits", False),
    ],
)
def test_a_word_may_be_left_unfinished(typed: str, is_meant: bool) -> None:
    """What is typed is the beginning of a word of either name."""
    assert matches(typed, "Parus major", "Great Tit") is is_meant


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


INSTANTS = st.integers(DAWN - 100 * MINUTE, DAWN + 100 * MINUTE)


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


SECOND = 1_000_000


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


def test_a_species_that_comes_between_two_looks_is_no_error(log: LogStore, log_url: str) -> None:
    """An answer of several queries is of one state of the log."""
    log.record([GREAT_TIT], DAWN)
    writer = LogStore(log_url)

    def hear_another(_: object, __: object, statement: str, *___: object) -> None:
        if "FROM names" in statement:
            writer.record([BLUE_TIT], DAWN)

    event.listen(log.database.engine, "after_cursor_execute", hear_another)
    found = species(log, Filter())
    writer.close()
    assert [count.scientific_name for count in found] in (["Parus major"], [])
    event.remove(log.database.engine, "after_cursor_execute", hear_another)
    assert len(species(log, Filter())) == 2
