"""Takes old rows out of a log, detections a month at a time, while it is written and read.

A local month goes when everything in it was heard, and received, before the time: so a recording
of years ago that is replayed today stays as long as what is heard today, and no span is left half
counted. Each transaction is short, and followed by a pause in which others write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ColumnElement, delete, func, select

from fieldstation.store.database import Database
from fieldstation.store.log_tables import DETECTIONS, TOTALS
from fieldstation.store.spans import dates_of, months_of
from fieldstation.store.totals import EVERYBODY, count_in, count_out

ROWS = 100
"""Deleted in one transaction"""
PAUSE_S = 0.05
"""Between two: SQLite gives its lock to whoever asks next, not to whoever waited longest"""

Pause = Callable[[], bool]
"""Waits; returns whether to go on"""


def pause() -> bool:
    """Wait a little."""
    time.sleep(PAUSE_S)
    return True


def pause_for(seconds: float) -> Pause:
    """Return what waits a little each time, until a time is over: the rest has time till later."""
    ends_at = time.monotonic() + seconds
    return lambda: pause() and time.monotonic() < ends_at


def forget(database: Database, before: int, go_on: Pause = pause) -> int:
    """Delete the months that lie before an instant; return how many detections went.

    Raises:
        StoreUnavailable: disk, lock or server are not to be had; what went is gone.
    """
    n = 0
    for month in old_months(database, before):
        while deleted := _forget_some(database, month, before):
            n += deleted
            if not go_on():
                return n
        _settle(database, month)
    return n


def delete_some(database: Database, key: Column[Any], which: ColumnElement[bool]) -> int:
    """Delete some of the rows that meet a condition; return how many."""
    with database.read() as connection:
        ids = list(connection.execute(select(key).where(which).limit(ROWS)).scalars())
    if not ids:
        return 0  # no lock for that
    with database.write() as connection:
        # Once more the condition: what has changed since stays.
        return connection.execute(delete(key.table).where(key.in_(ids), which)).rowcount


def old_months(database: Database, before: int) -> list[str]:
    """Return the months of which everything was heard and received before an instant."""
    last_at, received_at = func.max(TOTALS.c.last_at), func.max(TOTALS.c.received_at)
    with database.read() as connection:
        query = (
            select(TOTALS.c.span)
            .where(TOTALS.c.span.in_(months_of(connection)), TOTALS.c.station == EVERYBODY)
            .group_by(TOTALS.c.span)
            .having(last_at < before, received_at < before)
            .order_by(TOTALS.c.span)
        )
        return list(connection.execute(query).scalars())


def _forget_some(database: Database, month: str, before: int) -> int:
    """Delete some of a month's detections, and take them out of the roll-ups."""
    d = DETECTIONS.c
    # One that has just come, late, is not among those that made the month old.
    some = select(d.event_id).where(_in(month), d.received_at < before).limit(ROWS)
    with database.read() as connection:
        ids = list(connection.execute(some.order_by(d.local_date)).scalars())
    counted = d.station, d.started_local, d.local_date, d.scientific_name, d.probability
    gone = delete(DETECTIONS).where(d.event_id.in_(ids)).returning(*counted)
    with database.write() as connection:
        rows = [dict(row) for row in connection.execute(gone).mappings()]
        if rows:
            count_out(connection, rows)
    return len(rows)


def _settle(database: Database, month: str) -> None:
    """Count a month's late detections anew: their sums may tell times of those that went."""
    with database.write() as connection:
        left = select(DETECTIONS).where(_in(month)).limit(ROWS)
        rows = [dict(row) for row in connection.execute(left).mappings()]
        if 0 < len(rows) < ROWS:
            count_out(connection, rows)
            count_in(connection, rows)


def _in(month: str) -> ColumnElement[bool]:
    return DETECTIONS.c.local_date.between(*dates_of(month))
