"""Which spans of `totals` make up a stretch of time, and of which local dates only a part does.

A span lies in a stretch of time when its first and last detection do: so zones, summer time and
clocks that were set make no difference, and no date is counted twice or left out.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from fieldstation.clock import US_PER_S, instant_of
from fieldstation.store.log_tables import TOTALS
from fieldstation.store.totals import EVERYBODY, MONTH

FIRST, LAST = -(2**63), 2**63 - 1
"""Before and after every instant"""
DAY_US = 86_400 * US_PER_S
ZONE_US = 16 * 3_600 * US_PER_S
"""No zone was ever further from UTC"""


@dataclass(frozen=True, slots=True)
class Spans:
    """A stretch of time in spans."""

    whole: list[str]
    """Counted by `totals`"""
    partial: list[str]
    """Local dates or months of which something lies inside and something outside"""


def spans_of(connection: Connection, station: str, since: int | None, until: int | None) -> Spans:
    """Return [since, until) as spans of one station, or of EVERYBODY; None leaves an end open."""
    since, until = FIRST if since is None else since, LAST if until is None else until
    months = _sort(connection, station, _months(connection), since, until)
    if station != EVERYBODY:
        return months
    dates = [date for month in months.partial for date in dates_of(month)]
    days = _sort(connection, station, dates, since, until)
    return Spans(months.whole + days.whole, days.partial)


def dates_of(month: str) -> list[str]:
    """Return the dates of a month, `2026-05`."""
    _, n_days = monthrange(int(month[:4]), int(month[5:]))
    return [f"{month}-{day:02d}" for day in range(1, n_days + 1)]


def _months(connection: Connection) -> list[str]:
    """Return every month of which there is a detection, in order: one look-up for each."""
    months = select(func.min(TOTALS.c.span).label("span")).cte("months", recursive=True)
    # Every span of a month sorts before "-99"; the first one behind is the next month itself.
    following = select(func.min(TOTALS.c.span)).where(TOTALS.c.span > months.c.span + "-99")
    more = select(following.scalar_subquery()).where(months.c.span.is_not(None))
    months = months.union_all(more)
    found = connection.execute(select(months.c.span).where(months.c.span.is_not(None)))
    return list(found.scalars())


def _sort(
    connection: Connection, station: str, spans: Iterable[str], since: int, until: int
) -> Spans:
    whole: list[str] = []
    unsure: list[str] = []
    for span in spans:
        earliest, latest = _bounds(span)
        if since <= earliest and latest <= until:
            whole.append(span)
        elif earliest < until and latest > since:
            unsure.append(span)
    partial: list[str] = []
    for span, first_at, last_at in _extents(connection, station, unsure):
        if since <= first_at and last_at < until:
            whole.append(span)
        elif first_at < until and last_at >= since:
            partial.append(span)
    return Spans(whole, partial)


def _bounds(span: str) -> tuple[int, int]:
    """Return the instants before and after anything of a span, whatever the zone."""
    first = dates_of(span)[0] if len(span) == MONTH else span
    last = dates_of(span)[-1] if len(span) == MONTH else span
    return _midnight(first) - ZONE_US, _midnight(last) + DAY_US + ZONE_US


def _midnight(date: str) -> int:
    return instant_of(datetime.fromisoformat(date).replace(tzinfo=UTC))


def _extents(connection: Connection, station: str, spans: list[str]) -> list[tuple[str, int, int]]:
    if not spans:
        return []
    query = (
        select(TOTALS.c.span, func.min(TOTALS.c.first_at), func.max(TOTALS.c.last_at))
        .where(TOTALS.c.span.in_(spans), TOTALS.c.station == station)
        .group_by(TOTALS.c.span)
        .order_by(TOTALS.c.span)
    )
    return [(span, first, last) for span, first, last in connection.execute(query)]
