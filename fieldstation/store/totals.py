"""The roll-ups: what the rows of `detections` add up to, kept in the rows' own transactions.

`daily` counts each station's species by local date. `totals` counts by spans, a month of one
station, or a month or a day of all, split by bands of probability; `everywhere` counts days and
hours of all, not split. So any question for counts reads some thousand rows, however many
detections there are. `names` holds every name ever told.
At every commit `n` is what counting the rows would give.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    select,
    update,
)

from fieldstation.store.bulk import write_rows
from fieldstation.store.log_tables import DAILY, DETECTIONS, EVERYWHERE, NAMES, TOTALS
from fieldstation.store.upsert import Insert, greater, insert, lesser

Values = Mapping[str, Any]
"""A row of `detections`"""
Key = tuple[Any, ...]

EVERYBODY = ""
"""Station of the spans that count all of them"""
EDGES = (*(step / 20 for step in range(20)), 0.99)
"""Lower edges of the bands: who asks for at least one of these is answered from roll-ups"""
MONTH, DAY, HOUR = len("2026-05"), len("2026-05-01"), len("2026-05-01T06")
"""Lengths of a span's name, the beginning of its detections' local time"""

DAYS_KEY = ("station", "local_date", "scientific_name")
TOTALS_KEY = ("span", "station", "scientific_name", "band")
EVERYWHERE_KEY = ("span", "scientific_name")
NAMES_KEY = ("scientific_name", "common_name")
SUMS = ("n", "max_probability", "first_at", "last_at")


def band_of(probability: float) -> float:
    """Return the lower edge of the band that a probability lies in."""
    return EDGES[bisect_right(EDGES, probability) - 1]


def day_key(row: Values) -> Key:
    """Return which row of `daily` counts a detection."""
    return row["station"], row["local_date"], row["scientific_name"]


def totals_keys(row: Values) -> tuple[Key, ...]:
    """Return which rows of `totals` count a detection."""
    station, name = row["station"], row["scientific_name"]
    date, band = row["local_date"], band_of(row["probability"])
    return (
        (date[:MONTH], station, name, band),
        (date[:MONTH], EVERYBODY, name, band),
        (date, EVERYBODY, name, band),
    )


def everywhere_keys(row: Values) -> tuple[Key, ...]:
    """Return which rows of `everywhere` count a detection."""
    moment, name = row["started_local"], row["scientific_name"]
    return (moment[:DAY], name), (moment[:HOUR], name)


def count_in(connection: Connection, rows: Sequence[Values]) -> None:
    """Add new detections to the roll-ups."""
    _count_days(connection, rows)
    _count_spans(connection, rows)
    _count_everywhere(connection, rows)
    _note_names(connection, rows)


def count_out(connection: Connection, rows: Sequence[Values]) -> None:
    """Take deleted detections out of the roll-ups.

    While a span loses its rows bit by bit, its best probability and first and last time may be
    those of a row that just went; with its last detection the span goes.
    """
    _take(connection, DAILY, DAYS_KEY, Counter(map(day_key, rows)))
    _take(connection, TOTALS, TOTALS_KEY, Counter(k for row in rows for k in totals_keys(row)))
    everywhere = Counter(k for row in rows for k in everywhere_keys(row))
    _take(connection, EVERYWHERE, EVERYWHERE_KEY, everywhere)


def count_anew(connection: Connection) -> None:
    """Make the roll-ups of the rows that there are, whatever they said before."""
    for table in (DAILY, TOTALS, EVERYWHERE, NAMES):
        connection.execute(delete(table))
    d = DETECTIONS.c
    # Rows saved from a log of before it had this column.
    date = func.substr(d.started_local, 1, DAY)
    connection.execute(update(DETECTIONS).where(d.local_date.is_(None)).values(local_date=date))
    _fill(connection, DAILY, DAYS_KEY, (d.station, d.local_date, d.scientific_name), "common_name")
    band = case(*((d.probability >= edge, edge) for edge in reversed(EDGES)), else_=EDGES[0])
    month, nobody = func.substr(d.local_date, 1, MONTH), literal(EVERYBODY)
    for span, whose in ((month, d.station), (month, nobody), (d.local_date, nobody)):
        key = span, whose, d.scientific_name, band
        _fill(connection, TOTALS, TOTALS_KEY, key, "received_at")
    for length in (DAY, HOUR):
        span = func.substr(d.started_local, 1, length)
        _fill(connection, EVERYWHERE, EVERYWHERE_KEY, (span, d.scientific_name))
    names = d.scientific_name, d.common_name
    newest = select(*names, func.max(d.started_at)).group_by(*names)
    connection.execute(insert(connection, NAMES).from_select((*NAMES_KEY, "told_at"), newest))


def _fill(
    connection: Connection,
    table: Table,
    key: tuple[str, ...],
    key_of: tuple[ColumnElement[Any], ...],
    *greatest: str,
) -> None:
    """Insert the sums of all detections by a key, with the greatest of other columns."""
    d = DETECTIONS.c
    named = (value.label(name) for value, name in zip(key_of, key, strict=True))
    others = (d[name].label(f"all_{name}") for name in greatest)
    one = select(*named, d.probability, d.started_at, *others).subquery().c
    keys = [one[name] for name in key]
    first_at, last_at = func.min(one.started_at), func.max(one.started_at)
    most = (func.max(one[f"all_{name}"]) for name in greatest)
    rows = select(*keys, func.count(), func.max(one.probability), first_at, last_at, *most)
    columns = (*key, *SUMS, *greatest)
    connection.execute(insert(connection, table).from_select(columns, rows.group_by(*keys)))


def _sums(keyed: Iterable[tuple[Key, Values]]) -> dict[Key, list[Any]]:
    """Return `SUMS` of the rows of each key."""
    sums: dict[Key, list[Any]] = {}
    for key, row in keyed:
        probability, started_at = row["probability"], row["started_at"]
        one = sums.get(key)
        if one is None:
            sums[key] = [1, probability, started_at, started_at]
            continue
        one[0] += 1
        one[1] = max(one[1], probability)
        one[2] = min(one[2], started_at)
        one[3] = max(one[3], started_at)
    return sums


def _count_days(connection: Connection, rows: Sequence[Values]) -> None:
    days = _sums((day_key(row), row) for row in rows)
    called = {day_key(row): row["common_name"] for row in rows}
    write_rows(
        connection,
        DAILY,
        _grow_days,
        (*DAYS_KEY, "common_name", *SUMS),
        [(*key, called[key], *days[key]) for key in sorted(days)],
    )


def _count_spans(connection: Connection, rows: Sequence[Values]) -> None:
    totals = _sums((key, row) for row in rows for key in totals_keys(row))
    received_at = max((row["received_at"] for row in rows), default=0)
    write_rows(
        connection,
        TOTALS,
        _grow_totals,
        (*TOTALS_KEY, *SUMS, "received_at"),
        [(*key, *totals[key], received_at) for key in sorted(totals)],
    )


def _count_everywhere(connection: Connection, rows: Sequence[Values]) -> None:
    spans = _sums((key, row) for row in rows for key in everywhere_keys(row))
    write_rows(
        connection,
        EVERYWHERE,
        _grow_everywhere,
        (*EVERYWHERE_KEY, *SUMS),
        [(*key, *spans[key]) for key in sorted(spans)],
    )


def _note_names(connection: Connection, rows: Sequence[Values]) -> None:
    told: dict[Key, int] = {}
    for row in rows:
        name = row["scientific_name"], row["common_name"]
        told[name] = max(told.get(name, row["started_at"]), row["started_at"])
    write_rows(
        connection,
        NAMES,
        _note_newest,
        (*NAMES_KEY, "told_at"),
        [(*name, told[name]) for name in sorted(told)],
    )


def _grow_days(statement: Insert) -> Insert:
    called = {"common_name": statement.excluded.common_name}
    return statement.on_conflict_do_update(
        index_elements=DAYS_KEY, set_=_grown(DAILY, statement) | called
    )


def _grow_totals(statement: Insert) -> Insert:
    newest = greater(TOTALS.c.received_at, statement.excluded.received_at)
    return statement.on_conflict_do_update(
        index_elements=TOTALS_KEY, set_=_grown(TOTALS, statement) | {"received_at": newest}
    )


def _grow_everywhere(statement: Insert) -> Insert:
    return statement.on_conflict_do_update(
        index_elements=EVERYWHERE_KEY, set_=_grown(EVERYWHERE, statement)
    )


def _note_newest(statement: Insert) -> Insert:
    newest = greater(NAMES.c.told_at, statement.excluded.told_at)
    return statement.on_conflict_do_update(index_elements=NAMES_KEY, set_={"told_at": newest})


def _grown(table: Table, statement: Insert) -> dict[str, Any]:
    """Return the SQL that does to a stored row what `_sums` does to one in memory."""
    old, new = table.c, statement.excluded
    return {
        "n": old.n + new.n,
        "max_probability": greater(old.max_probability, new.max_probability),
        "first_at": lesser(old.first_at, new.first_at),
        "last_at": greater(old.last_at, new.last_at),
    }


def _take(connection: Connection, table: Table, key: tuple[str, ...], gone: Counter[Key]) -> None:
    """Subtract counts, and delete the rows that count nothing any more."""
    names = [f"key_{column}" for column in key]
    one = and_(*(table.c[c] == bindparam(n) for c, n in zip(key, names, strict=True)))
    marks = [dict(zip(names, k, strict=True)) | {"gone": gone[k]} for k in sorted(gone)]
    less = update(table).where(one).values(n=table.c.n - bindparam("gone"))
    connection.execute(less, marks)
    empty = delete(table).where(one, table.c.n <= 0)
    connection.execute(empty, [{n: mark[n] for n in names} for mark in marks])
