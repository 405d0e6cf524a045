"""Questions that people ask of the log about what was heard; `coverage_query`: about whether."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Result,
    Row,
    Select,
    Table,
    func,
    select,
    union_all,
)

from fieldstation.records import Detection
from fieldstation.store.log_db import DETECTION_FIELDS, LogStore
from fieldstation.store.log_tables import (
    DAILY,
    DETECTIONS,
    EVERYWHERE,
    NAMES,
    TOTALS,
)
from fieldstation.store.spans import Part, dates_of, spans_of
from fieldstation.store.totals import DAY, EDGES, EVERYBODY, HOUR, MONTH, SUMS

ROWS_AT_ONCE = 1_000
"""Fetched together; an answer of millions of rows is never in memory as a whole"""
MOST_UNITED = 200
"""Of SQLite's 500. Whoever means more species finds one of them wherever the newest rows are"""


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


def detections(log: LogStore, wanted: Filter) -> Iterator[Detection]:
    """Yield detections, newest first, as they are read.

    Raises:
        StoreError: the log cannot be read.
    """
    with log.database.read() as connection:
        columns = [DETECTIONS.c[name] for name in DETECTION_FIELDS]
        rows = select(*columns).where(*but_species(wanted))
        d, names = DETECTIONS.c, meant(connection, wanted)
        order = d.started_at, d.event_id
        query = newest_first(rows, d.scientific_name, names, order, wanted.limit)
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


def known_events(log: LogStore, event_ids: Sequence[str]) -> set[str]:
    """Return those of some events that the log has.

    Raises:
        StoreError: the log cannot be read.
    """
    found: set[str] = set()
    with log.database.read() as connection:
        for start in range(0, len(event_ids), ROWS_AT_ONCE):
            some = event_ids[start : start + ROWS_AT_ONCE]
            known = select(DETECTIONS.c.event_id).where(DETECTIONS.c.event_id.in_(some))
            found.update(connection.execute(known).scalars())
    return found


def species(log: LogStore, wanted: Filter) -> list[SpeciesCount]:
    """Return each species' count, first and last time and best probability, most heard first.

    Answered from the roll-ups but for the ends of the time asked about, and for a probability
    that is no edge of their bands (`totals.EDGES`: every 0.05, and 0.99).
    """
    with log.database.read() as connection:
        parts = _counted(connection, wanted)
        if not parts:
            return []
        counted = union_all(*parts).subquery()
        n = func.sum(counted.c.n).label("n")
        query = (
            select(
                counted.c.scientific_name,
                n,
                func.min(counted.c.first_at).label("first_at"),
                func.max(counted.c.last_at).label("last_at"),
                func.max(counted.c.max_probability).label("max_probability"),
            )
            .group_by(counted.c.scientific_name)
            .order_by(n.desc(), counted.c.scientific_name)
            .limit(wanted.limit)
        )
        names = dict(_names(connection))
        found: Result[Any] = connection.execute(query)
        return [_species_count(row, names) for row in found]


def matches(species: str, scientific_name: str, common_name: str) -> bool:
    """Return whether a name, or any word of it, begins with what a person typed."""
    typed = " ".join(species.casefold().split())
    return any(
        f" {name.casefold()}".find(f" {typed}") >= 0 for name in (scientific_name, common_name)
    )


def meant(connection: Connection, wanted: Filter) -> list[str] | None:
    """Return the scientific names that a filter means; None where any will do.

    Names are matched here: LIKE folds ASCII only, and an exact list uses the index.
    """
    if wanted.species is None:
        return None
    pairs = _names(connection)
    return sorted({pair[0] for pair in pairs if matches(wanted.species, *pair)})


def newest_first(
    rows: Select[Any],
    key: ColumnElement[Any],
    values: Sequence[str] | None,
    order: Sequence[ColumnElement[Any]],
    limit: int | None,
) -> Select[Any] | CompoundSelect[Any]:
    """Return the query of rows of which `key` has one of some values, in falling order.

    Args:
        values: None: any.
        order: columns that the rows have under the same names; an index has them behind `key`.
    """
    falling = [column.desc() for column in order]
    if values is None:
        return rows.order_by(*falling).limit(limit)
    if limit is None or not 0 < len(values) <= MOST_UNITED:
        return rows.where(key.in_(values)).order_by(*falling).limit(limit)
    # The newest of each value from its own end of the index; all of them at once would be
    # sorted, or every other one passed over.
    each = [rows.where(key == value).order_by(*falling).limit(limit) for value in values]
    found = union_all(*(select(one.subquery()) for one in each))
    columns = {column.key: column for column in found.selected_columns}
    return found.order_by(*(columns[c.key].desc() for c in order if c.key)).limit(limit)


def conditions(connection: Connection, wanted: Filter) -> list[ColumnElement[bool]]:
    """Return a filter as conditions on `detections`."""
    names = meant(connection, wanted)
    species = [] if names is None else [DETECTIONS.c.scientific_name.in_(names)]
    return species + but_species(wanted)


def but_species(wanted: Filter, of_event: Table = DETECTIONS) -> list[ColumnElement[bool]]:
    """Return a filter, but for the species, as conditions on detections.

    Args:
        of_event: a table joined to them that has their start and station too, with indices.
    """
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(of_event.c.started_at >= wanted.since)
    if wanted.until is not None:
        found.append(of_event.c.started_at < wanted.until)
    if wanted.min_probability is not None:
        found.append(DETECTIONS.c.probability >= wanted.min_probability)
    if wanted.station is not None:
        found.append(of_event.c.station == wanted.station)
    return found


def _counted(connection: Connection, wanted: Filter) -> list[Select[Any]]:
    """Return queries whose counts, of disjoint detections, add up to those of a filter.

    They are: the spans that lie wholly in the time asked about; what lies in it of the others;
    and, of all of it, the band of probabilities that the filter cuts.
    """
    station = EVERYBODY if wanted.station is None else wanted.station
    least = wanted.min_probability or 0.0
    edge = next((edge for edge in EDGES if edge >= least), None)
    spans = spans_of(connection, station, wanted.since, wanted.until, _smallest(station, least))
    names = meant(connection, wanted)
    parts: list[Select[Any]] = []
    if edge is not None:
        # Days are split by probability in one table, and as a whole in others.
        split = DAY if least else MONTH
        parts.append(_of_totals([s for s in spans.whole if len(s) <= split], station, edge))
        parts.append(_unsplit([s for s in spans.whole if len(s) > split], station))
        parts += [_of_rows(wanted, _within(part), edge) for part in spans.partial]
    if edge != least and spans.names:
        cut = _on(spans.names[0], spans.names[-1]) & (DETECTIONS.c.probability < (edge or 2.0))
        parts.append(_of_rows(wanted, cut, least))
    if names is not None:
        parts = [part.where(part.selected_columns.scientific_name.in_(names)) for part in parts]
    return parts


def _of_totals(spans: list[str], station: str, edge: float) -> Select[Any]:
    t = TOTALS.c
    chosen = t.span.in_(spans), t.station == station, t.band >= edge
    # By span first, in the order in which they stand: the bands are added up as they are read.
    return _summed(TOTALS).where(*chosen).group_by(t.span, t.scientific_name)


def _smallest(station: str, least: float) -> int:
    """Return which spans are counted: hours and a station's days are not split by probability."""
    if station == EVERYBODY:
        return DAY if least else HOUR
    return MONTH if least else DAY


def _unsplit(spans: list[str], station: str) -> Select[Any]:
    columns = ("scientific_name", *SUMS)
    if station != EVERYBODY:
        days = select(*(DAILY.c[name] for name in columns))
        return days.where(DAILY.c.station == station, DAILY.c.local_date.in_(spans))
    counts = select(*(EVERYWHERE.c[name] for name in columns))
    return counts.where(EVERYWHERE.c.span.in_(spans))


def _summed(table: Table) -> Select[Any]:
    return select(
        table.c.scientific_name,
        func.sum(table.c.n).label("n"),
        func.max(table.c.max_probability).label("max_probability"),
        func.min(table.c.first_at).label("first_at"),
        func.max(table.c.last_at).label("last_at"),
    )


def _of_rows(wanted: Filter, which: ColumnElement[bool], least: float) -> Select[Any]:
    started_at = DETECTIONS.c.started_at
    return (
        select(
            DETECTIONS.c.scientific_name,
            func.count().label("n"),
            func.max(DETECTIONS.c.probability).label("max_probability"),
            func.min(started_at).label("first_at"),
            func.max(started_at).label("last_at"),
        )
        .where(*but_species(replace(wanted, min_probability=least)), which)
        .group_by(DETECTIONS.c.scientific_name)
    )


def _within(part: Part) -> ColumnElement[bool]:
    """Return the condition that a detection is of a span."""
    # By its instants too, of which there are indices: the planner may take either.
    inside = DETECTIONS.c.started_at.between(part.first_at, part.last_at)
    if len(part.span) < HOUR:
        return inside & _on(part.span, part.span)
    return inside & (func.substr(DETECTIONS.c.started_local, 1, HOUR) == part.span)


def _on(first: str, last: str) -> ColumnElement[bool]:
    """Return the condition that a detection is of some dates, from a span to another."""
    (begins, _), (_, ends) = dates_of(first), dates_of(last)
    date = DETECTIONS.c.local_date
    return date == begins if begins == ends else date.between(begins, ends)


def _names(connection: Connection) -> list[tuple[str, str]]:
    """Return every (scientific, common) name ever told, the last told last."""
    query = select(NAMES.c.scientific_name, NAMES.c.common_name).order_by(NAMES.c.told_at)
    return [(row[0], row[1]) for row in connection.execute(query)]


def _species_count(row: Row[Any], names: dict[str, str]) -> SpeciesCount:
    return SpeciesCount(
        row.scientific_name,
        names[row.scientific_name],
        int(row.n),  # PostgreSQL's sum of BIGINT is a Decimal
        row.first_at,
        row.last_at,
        row.max_probability,
    )
