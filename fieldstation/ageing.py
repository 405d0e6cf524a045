"""The clock by which kept things grow old: it does not follow a wall clock that leaps.

A real-time clock with a flat battery, or one bad answer of a time server, may say 2031 for an hour;
what is removed by its age in that hour is gone for good.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from fieldstation.clock import US_PER_S, Clock, format_instant
from fieldstation.state import Vitals

log = logging.getLogger(__name__)

NOTE = "ageing"
"""Name of the small file that outlives the process"""
LEAP_US = 2 * 86_400 * US_PER_S
"""So far from where it should be, a clock is doubted; a station of half an hour a day is not"""
STANDS_S = 86_400.0
"""A doubted clock that went on so long without another leap is believed"""
KEEP_EVERY_S = 3_600.0


class AgeingClock:
    """A clock whose wall never runs ahead of what was believed, but by the time that went by."""

    def __init__(self, clock: Clock, notes: Vitals) -> None:
        """Go on from what the last run believed; without one, believe the clock.

        Args:
            notes: where it is kept; the disk may refuse, and this run goes on from memory.
        """
        self.clock = clock
        self._notes = notes
        self._lock = threading.Lock()
        self._looked = clock.monotonic()
        self._kept: float | None = None
        left, now = notes.read(NOTE), clock.wall()
        self._believed_at = _whole(left.get("believed_at"), now)
        self._doubted_at = _whole(left.get("doubted_at"), now)
        self._stood_s = float(_whole(left.get("stood_s"), 0))

    def wall(self) -> int:
        """Return the instant to measure ages against."""
        with self._lock:
            now = self.clock.wall()
            self._judge(now, self._pass())
            self._keep()
            return min(now, self._believed_at)

    def monotonic(self) -> float:
        """Return seconds since some fixed point; never steps."""
        return self.clock.monotonic()

    def _pass(self) -> float:
        """Let the time since the last look go by for both; return it."""
        elapsed_s = self.clock.monotonic() - self._looked
        self._looked += elapsed_s
        self._believed_at += round(elapsed_s * US_PER_S)
        self._doubted_at += round(elapsed_s * US_PER_S)
        return elapsed_s

    def _judge(self, now: int, elapsed_s: float) -> None:
        """Believe a clock that is near where it should be, or that has stood for long."""
        if abs(now - self._believed_at) <= LEAP_US:
            self._stood_s = 0.0
            self._believed_at = self._doubted_at = now
            return
        goes_on = abs(now - self._doubted_at) <= LEAP_US
        self._stood_s = self._stood_s + elapsed_s if goes_on else 0.0
        self._doubted_at = now
        if self._stood_s >= STANDS_S:
            self._believed_at = now
        elif not goes_on:
            self._tell(now)

    def _tell(self, now: int) -> None:
        log.warning(
            "the clock says %s, and should say about %s: nothing is removed for its age by the "
            "new time until that has stood for a day",
            format_instant(now),
            format_instant(self._believed_at),
        )
        self._kept = None

    def _keep(self) -> None:
        if self._kept is not None and self._looked - self._kept < KEEP_EVERY_S:
            return
        self._kept = self._looked
        values = {
            "believed_at": self._believed_at,
            "doubted_at": self._doubted_at,
            "stood_s": int(self._stood_s),
        }
        with contextlib.suppress(OSError):  # a full disk: what makes room must go on
            self._notes.write(NOTE, values)


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
