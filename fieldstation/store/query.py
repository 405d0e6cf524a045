"""Questions that people ask of the log (and, about coverage, of station.db)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, select

from fieldstation.clock import US_PER_S
from fieldstation.records import Detection, Hearing, Interval
from fieldstation.store.log_db import DETECTION_FIELDS, LogStore
from fieldstation.store.log_tables import COVERAGE, DAILY, DETECTIONS
from fieldstation.store.station_db import StationStore

ROWS_AT_ONCE = 1_000
"""Fetched together; an answer of millions of rows is never in memory as a whole"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which detections are meant; None leaves a condition out."""

    species: str | None = None
    """Beginning of any word of the scientific or common name, in either case: `parus`,
    `parus major`, `great tit`, `tit`"""
    since: int | None = None
    """Instant: started then or later"""
    until: int | None = None
    """Instant: started before"""
    min_probability: float | None = None
    station: str | None = None
    """Exact name"""
    limit: int | None = None
    """Most rows of the answer"""


@dataclass(frozen=True, slots=True)
class SpeciesCount:
    """What the log knows of one species."""

    scientific_name: str
    common_name: str
    """As last told"""
    n: int
    first_at: int
    last_at: int
    max_probability: float


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


def detections(log: LogStore, wanted: Filter) -> Iterator[Detection]:
    """Yield detections, newest first, as they are read.

    Raises:
        StoreError: the log cannot be read.
    """
    with log.database.read() as connection:
        columns = [DETECTIONS.c[name] for name in DETECTION_FIELDS]
        query = (
            select(*columns)
            .where(*conditions(connection, wanted))
            .order_by(DETECTIONS.c.started_at.desc(), DETECTIONS.c.event_id.desc())
            .limit(wanted.limit)
        )
        for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query):
            yield Detection(*row)


def find_detection(log: LogStore, event_id: str) -> Detection | None:
    """Return a detection by its id; None where the log has none of it.

    Raises:
        StoreError: the log cannot be read.
    """
    columns = [DETECTIONS.c[name] for name in DETECTION_FIELDS]
    with log.database.read() as connection:
        row = connection.execute(select(*columns).where(DETECTIONS.c.event_id == event_id)).first()
    return None if row is None else Detection(**row._mapping)


def species(log: LogStore, wanted: Filter) -> list[SpeciesCount]:
    """Return each species' count, first and last time and best probability, most heard first."""
    started_at = DETECTIONS.c.started_at
    n = func.count().label("n")
    with log.database.read() as connection:
        query = (
            select(
                DETECTIONS.c.scientific_name,
                n,
                func.min(started_at).label("first_at"),
                func.max(started_at).label("last_at"),
                func.max(DETECTIONS.c.probability).label("max_probability"),
            )
            .where(*conditions(connection, wanted))
            .group_by(DETECTIONS.c.scientific_name)
            .order_by(n.desc(), DETECTIONS.c.scientific_name)
            .limit(wanted.limit)
        )
        names = dict(_names(connection))
        return [_species_count(row, names) for row in connection.execute(query)]


def coverage(
    store: LogStore | StationStore, since: int, until: int, station: str | None = None
) -> Coverage:
    """Return what was heard and lost in [since, until), of one station or of all.

    Intervals that reach over an end are cut there; a clock step belongs to its instant.
    """
    if isinstance(store, StationStore):
        found = [Stretch("", interval) for interval in store.intervals(since, until)]
    else:
        found = _logged_stretches(store, since, until, station)
    stretches = [
        replace(stretch, interval=cut)
        for stretch in found
        if (cut := cut_interval(stretch.interval, since, until)) is not None
    ]
    return Coverage(sum_stretches(stretches), tuple(stretches))


def cut_interval(interval: Interval, since: int, until: int) -> Interval | None:
    """Return the part of an interval inside [since, until), or None where there is none."""
    if interval.state is Hearing.CLOCK_STEP:
        return interval if since <= interval.started_at < until else None
    ended_at = interval.started_at + round(interval.duration_s * US_PER_S)
    if since <= interval.started_at and ended_at <= until:
        return interval if interval.started_at < until else None
    started_at, ended_at = max(interval.started_at, since), min(ended_at, until)
    if ended_at <= started_at:
        return None
    return replace(interval, started_at=started_at, duration_s=(ended_at - started_at) / US_PER_S)


def sum_stretches(stretches: Iterable[Stretch]) -> tuple[CoverageSum, ...]:
    """Return the time per station, state and cause, in that order."""
    durations: dict[tuple[str, Hearing, str], list[float]] = defaultdict(list)
    for stretch in stretches:
        interval = stretch.interval
        durations[stretch.station, interval.state, interval.cause].append(interval.duration_s)
    return tuple(
        CoverageSum(*key, duration_s=sum(durations[key]), n=len(durations[key]))
        for key in sorted(durations)
    )


def matches(species: str, scientific_name: str, common_name: str) -> bool:
    """Return whether a name, or any word of it, begins with what a person typed."""
    typed = " ".join(species.casefold().split())
    return any(
        f" {name.casefold()}".find(f" {typed}") >= 0 for name in (scientific_name, common_name)
    )


def conditions(connection: Connection, wanted: Filter) -> list[ColumnElement[bool]]:
    """Return a filter as conditions on `detections`."""
    found: list[ColumnElement[bool]] = []
    if wanted.species is not None:
        # Names are matched here: LIKE folds ASCII only, and an exact list uses the index.
        pairs = _names(connection)
        chosen = {pair[0] for pair in pairs if matches(wanted.species, *pair)}
        found.append(DETECTIONS.c.scientific_name.in_(sorted(chosen)))
    if wanted.since is not None:
        found.append(DETECTIONS.c.started_at >= wanted.since)
    if wanted.until is not None:
        found.append(DETECTIONS.c.started_at < wanted.until)
    if wanted.min_probability is not None:
        found.append(DETECTIONS.c.probability >= wanted.min_probability)
    if wanted.station is not None:
        found.append(DETECTIONS.c.station == wanted.station)
    return found


def _names(connection: Connection) -> list[tuple[str, str]]:
    """Return every (scientific, common) name ever told, the last told last."""
    query = (
        select(DAILY.c.scientific_name, DAILY.c.common_name)
        .group_by(DAILY.c.scientific_name, DAILY.c.common_name)
        .order_by(func.max(DAILY.c.last_at))
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def _species_count(row: Row[Any], names: dict[str, str]) -> SpeciesCount:
    return SpeciesCount(
        row.scientific_name,
        names[row.scientific_name],
        row.n,
        row.first_at,
        row.last_at,
        row.max_probability,
    )


def _logged_stretches(log: LogStore, since: int, until: int, station: str | None) -> list[Stretch]:
    query = _intervals_touching(since, until)
    if station is not None:
        query = query.where(COVERAGE.c.station == station)
    with log.database.read() as connection:
        return [_stretch(row) for row in connection.execute(query)]


def _intervals_touching(since: int, until: int) -> Select[Any]:
    is_step = COVERAGE.c.state == Hearing.CLOCK_STEP.value
    ended_at = COVERAGE.c.started_at + case((is_step, 1), else_=COVERAGE.c.duration_s * US_PER_S)
    return (
        select(COVERAGE)
        .where(COVERAGE.c.started_at < until, ended_at > since)
        .order_by(COVERAGE.c.station, COVERAGE.c.started_at, COVERAGE.c.state)
    )


def _stretch(row: Row[Any]) -> Stretch:
    interval = Interval(row.run_id, row.started_at, row.duration_s, Hearing(row.state), row.cause)
    return Stretch(row.station, interval)
