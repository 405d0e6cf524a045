"""Which spans of the roll-ups make up a stretch of time, and of which only a part lies in it.

A span lies in a stretch of time when its first and last detection do: so zones, summer time and
clocks that were set make no difference, and no date is counted twice or left out.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, func, select, true

from fieldstation.clock import US_PER_S, instant_of
from fieldstation.store.log_tables import DAILY, EVERYWHERE, TOTALS
from fieldstation.store.totals import DAY, EVERYBODY, HOUR, MONTH

FIRST, LAST = -(2**63), 2**63 - 1
"""Before and after every instant"""
HOUR_US = 3_600 * US_PER_S
DAY_US = 24 * HOUR_US
ZONE_US = 16 * HOUR_US
"""No zone was ever further from UTC"""


@dataclass(frozen=True, slots=True)
class Part:
    """A span of which something lies inside a stretch of time and something outside."""

    span: str
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class Spans:
    """A stretch of time in spans."""

    whole: list[str]
    """Counted by a roll-up"""
    partial: list[Part]

    @property
    def names(self) -> list[str]:
        """Return all of them, in order of time."""
        return sorted([*self.whole, *(part.span for part in self.partial)])


def spans_of(
    connection: Connection,
    station: str,
    since: int | None,
    until: int | None,
    smallest: int = HOUR,
) -> Spans:
    """Return [since, until) in the spans of one station, or of EVERYBODY.

    Args:
        since: None leaves this end open.
        until: likewise.
        smallest: MONTH, DAY or HOUR; of one station no HOUR.
    """
    since, until = FIRST if since is None else since, LAST if until is None else until
    found = _sort(connection, station, months_of(connection), since, until)
    size = MONTH
    while size < smallest:
        size = DAY if size == MONTH else HOUR
        inside = [name for part in found.partial for name in _within(part.span)]
        closer = _sort(connection, station, inside, since, until)
        found = Spans(found.whole + closer.whole, closer.partial)
    return found


def dates_of(span: str) -> tuple[str, str]:
    """Return the first and last date of a month, date or hour."""
    if len(span) > MONTH:
        return span[:DAY], span[:DAY]
    _, n_days = monthrange(int(span[:4]), int(span[5:]))
    return f"{span}-01", f"{span}-{n_days:02d}"


def _within(span: str) -> list[str]:
    """Return the dates of a month, or the hours of a date."""
    if len(span) == DAY:
        return [f"{span}T{hour:02d}" for hour in range(24)]
    last = dates_of(span)[1]
    return [f"{span}-{day:02d}" for day in range(1, int(last[MONTH + 1 :]) + 1)]


def months_of(connection: Connection) -> list[str]:
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
    partial: list[Part] = []
    for part in _extents(connection, station, unsure):
        if since <= part.first_at and part.last_at < until:
            whole.append(part.span)
        elif part.first_at < until and part.last_at >= since:
            partial.append(part)
    return Spans(whole, partial)


def _bounds(span: str) -> tuple[int, int]:
    """Return instants before and after anything of a span, whatever the zone."""
    first, last = dates_of(span)
    if len(span) == HOUR:
        begins = _midnight(first) + int(span[DAY + 1 :]) * HOUR_US
        return begins - ZONE_US, begins + HOUR_US + ZONE_US
    return _midnight(first) - ZONE_US, _midnight(last) + DAY_US + ZONE_US


def _midnight(date: str) -> int:
    return instant_of(datetime.fromisoformat(date).replace(tzinfo=UTC))


def _extents(connection: Connection, station: str, spans: list[str]) -> list[Part]:
    if not spans:
        return []
    whose: ColumnElement[bool]
    if len(spans[0]) > MONTH and station != EVERYBODY:
        table, span, whose = DAILY, DAILY.c.local_date, DAILY.c.station == station
    elif len(spans[0]) > MONTH:
        table, span, whose = EVERYWHERE, EVERYWHERE.c.span, true()
    else:
        table, span, whose = TOTALS, TOTALS.c.span, TOTALS.c.station == station
    query = select(span, func.min(table.c.first_at), func.max(table.c.last_at))
    found = query.where(span.in_(spans), whose).group_by(span).order_by(span)
    return [Part(*row) for row in connection.execute(found)]
