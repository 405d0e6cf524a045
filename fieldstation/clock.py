"""Instants, as integer microseconds UTC, and the two clocks behind them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

US_PER_S = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Wall time names instants; monotonic time measures durations and order."""

    def wall(self) -> int:
        """Return the instant now, in microseconds UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed point; never steps."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> int:
        """Return the instant now."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()


FIRST_SENSIBLE = 1_735_689_600 * US_PER_S
"""2025: a clock before it was never set"""
STEP_S = 1.0
"""A wall clock that moves this far against the monotonic one was set, not slewed"""


class Steps:
    """Notices that the wall clock was set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._wall_less_monotonic()

    def take(self) -> float:
        """Return by how many seconds it was set since the last call; 0 if it was not."""
        offset = self._wall_less_monotonic()
        step_s = (offset - self._offset) / US_PER_S
        if abs(step_s) <= STEP_S:
            return 0.0
        self._offset = offset
        return step_s

    def _wall_less_monotonic(self) -> int:
        return self._clock.wall() - round(self._clock.monotonic() * US_PER_S)


def format_instant(at: int) -> str:
    """Return ISO 8601 with microseconds and `Z`: `2026-05-01T04:12:07.250000Z`."""
    return (EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_instant(text: str, default_zone: ZoneInfo | None = None) -> int:
    """Return the instant that an ISO 8601 text names.

    Args:
        text: date, or date and time, with `Z` or an offset.
        default_zone: the zone of a text that names none; without it such a text is an error.

    Raises:
        ValueError: not an ISO 8601 instant, or no zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if default_zone is None:
            raise ValueError(f"{text!r} names no time zone: end it with Z or an offset")
        moment = moment.replace(tzinfo=default_zone)
    return instant_of(moment)


def instant_of(moment: datetime) -> int:
    """Return microseconds since the epoch of an aware datetime, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def local(at: int, timezone: str) -> datetime:
    """Return the local time of an instant in an IANA zone."""
    return (EPOCH + timedelta(microseconds=at)).astimezone(ZoneInfo(timezone))
