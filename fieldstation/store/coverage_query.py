"""What was heard and what was not: intervals of the log and of station.db, cut and added up."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Select, case, select, union_all

from fieldstation.clock import US_PER_S
from fieldstation.records import Hearing, Interval
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import COVERAGE, IS_LONG, LONG_S
from fieldstation.store.station_db import StationStore

HEARINGS = {hearing.value: hearing for hearing in Hearing}


@dataclass(frozen=True, slots=True)
class Stretch:
    """An interval, cut to what was asked for, and whose it is."""

    station: str
    """Empty in a station's own database"""
    interval: Interval


@dataclass(frozen=True, slots=True)
class CoverageSum:
    """Time that a station spent in one state for one cause."""

    station: str
    state: Hearing
    cause: str
    duration_s: float
    n: int
    """Intervals"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was heard and what was not between two instants."""

    sums: tuple[CoverageSum, ...]
    stretches: tuple[Stretch, ...]
    """By station, then in order of their start"""


def coverage(log: LogStore, since: int, until: int, station: str | None = None) -> Coverage:
    """Return what was heard and lost in [since, until), of one station or of all.

    Intervals that reach over an end are cut there; a clock step belongs to its instant. In the
    sums no moment of the wall clock counts twice, though a clock that is set back lives through
    some of them twice.
    """
    whose = [] if station is None else [COVERAGE.c.station == station]
    return _cut(_logged_stretches(log, since, until, whose), since, until)


def own_coverage(
    store: StationStore,
    since: int,
    until: int,
    newest: Interval | None = None,
    log: LogStore | None = None,
    station_key: str = "",
) -> Coverage:
    """Return what a station's own ledger tells, as `coverage` does.

    Args:
        newest: the interval that grows, where it is known better.
        log: tells what the ledger has forgotten; None where that is not asked for.
        station_key: whose it is, in the log.
    """
    known: dict[tuple[str, int, Hearing], Interval] = {}
    whose = [COVERAGE.c.station_key == station_key]
    logged = _logged_stretches(log, since, until, whose) if log else []
    for interval in [*(stretch.interval for stretch in logged), *store.intervals(since, until)]:
        key = interval.run_id, interval.started_at, interval.state
        known[key] = max(known.get(key, interval), interval, key=lambda i: i.duration_s)
    found = with_newest(list(known.values()), newest)
    return _cut([Stretch("", interval) for interval in found], since, until)


def _logged_stretches(
    log: LogStore, since: int, until: int, whose: list[ColumnElement[bool]]
) -> list[Stretch]:
    touching = union_all(*_intervals_touching(since, until, whose)).subquery()
    c = touching.c
    columns = c.station, c.run_id, c.started_at, c.duration_s, c.state, c.cause
    query = select(*columns).order_by(c.station, c.started_at, c.state)
    with log.database.read() as connection:
        # In tuples: of a hundred stations' month there are ten thousand.
        return [
            Stretch(whose, Interval(run_id, at, duration_s, HEARINGS[state], cause))
            for whose, run_id, at, duration_s, state, cause in connection.execute(query)
        ]


def _intervals_touching(
    since: int, until: int, whose: list[ColumnElement[bool]]
) -> list[Select[Any]]:
    """Return the queries of short and of long intervals, each with an index of its own.

    An interval may have begun long before: without its length being bounded, every one up to
    `until` would have to be looked at.
    """
    is_step = COVERAGE.c.state == Hearing.CLOCK_STEP.value
    ended_at = COVERAGE.c.started_at + case((is_step, 1), else_=COVERAGE.c.duration_s * US_PER_S)
    touching = select(COVERAGE).where(COVERAGE.c.started_at < until, ended_at > since, *whose)
    no_earlier = since - LONG_S * US_PER_S
    return [
        touching.where(COVERAGE.c.duration_s <= LONG_S, COVERAGE.c.started_at >= no_earlier),
        touching.where(IS_LONG),
    ]


def _cut(found: Iterable[Stretch], since: int, until: int) -> Coverage:
    stretches = [
        stretch if cut is stretch.interval else replace(stretch, interval=cut)
        for stretch in found
        if (cut := cut_interval(stretch.interval, since, until)) is not None
    ]
    return Coverage(sum_stretches(stretches), tuple(stretches))


def cut_interval(interval: Interval, since: int, until: int) -> Interval | None:
    """Return the part of an interval inside [since, until), or None where there is none."""
    if interval.state is Hearing.CLOCK_STEP:
        return interval if since <= interval.started_at < until else None
    ended_at = _ended_at(interval)
    if since <= interval.started_at and ended_at <= until:
        return interval if interval.started_at < until else None
    started_at, ended_at = max(interval.started_at, since), min(ended_at, until)
    if ended_at <= started_at:
        return None
    return replace(interval, started_at=started_at, duration_s=(ended_at - started_at) / US_PER_S)


def with_newest(intervals: Sequence[Interval], newest: Interval | None) -> list[Interval]:
    """Return intervals with one that has grown in the place of what it was."""
    if newest is None:
        return list(intervals)
    key = (newest.run_id, newest.started_at, newest.state)
    others = [i for i in intervals if (i.run_id, i.started_at, i.state) != key]
    same = [i for i in intervals if (i.run_id, i.started_at, i.state) == key]
    return [*others, max([*same, newest], key=lambda interval: interval.duration_s)]


def sum_stretches(stretches: Iterable[Stretch]) -> tuple[CoverageSum, ...]:
    """Return the time per station, state and cause, in that order; no moment counts twice.

    A moment that was heard once was heard; of those that were lost twice the first cause counts.
    """
    by_station: dict[str, list[Interval]] = defaultdict(list)
    for stretch in stretches:
        by_station[stretch.station].append(stretch.interval)
    sums: dict[tuple[str, Hearing, str], list[float]] = defaultdict(list)
    for station, intervals in by_station.items():
        for interval, duration_s in _each_once(intervals):
            sums[station, interval.state, interval.cause].append(duration_s)
    return tuple(
        CoverageSum(*key, duration_s=sum(sums[key]), n=len(sums[key])) for key in sorted(sums)
    )


def _each_once(intervals: Sequence[Interval]) -> Iterator[tuple[Interval, float]]:
    """Yield one station's intervals with what no other one counted; a clock step as it is."""
    timed = [interval for interval in intervals if interval.state is not Hearing.CLOCK_STEP]
    spans = sorted((interval.started_at, _ended_at(interval)) for interval in timed)
    if all(end <= start for (_, end), (start, _) in pairwise(spans)):  # nearly always
        yield from ((interval, interval.duration_s) for interval in intervals)
        return
    yield from ((i, i.duration_s) for i in intervals if i.state is Hearing.CLOCK_STEP)
    taken = _Taken()
    for interval in sorted(timed, key=lambda i: (i.state is not Hearing.HEARD, i.started_at)):
        yield interval, taken.take(interval.started_at, _ended_at(interval)) / US_PER_S


def _ended_at(interval: Interval) -> int:
    return interval.started_at + round(interval.duration_s * US_PER_S)


class _Taken:
    """Moments that were counted, as stretches [start, end) that do not touch one another."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def take(self, start: int, end: int) -> int:
        """Count a stretch; return how much of it was not counted before."""
        if end <= start:
            return 0
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        inside = range(first, last)
        known = sum(min(end, self._ends[i]) - max(start, self._starts[i]) for i in inside)
        begin, stop = min([start, *self._starts[first:last]]), max([end, *self._ends[first:last]])
        self._starts[first:last], self._ends[first:last] = [begin], [stop]
        return end - start - known
