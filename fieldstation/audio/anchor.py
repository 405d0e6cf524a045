"""When a live sample was heard, from counting samples.

A block arrives late by a little and never early, so one arrival says little about the time and
the least late of a minute says much. Instants therefore come from the sample count, tied to the
clocks by an anchor that is renewed every minute: what the count and the clock differ by is spread
over the next minute, so that no instant is given twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fieldstation.clock import US_PER_S, Clock

RENEW_S = 60.0
STEP_US = US_PER_S
"""A wall clock that moves this far against the monotonic one was set; less is slewed"""
LOOK_S = 2.0
MISSING_S = 0.4
"""Blocks that for `LOOK_S` all come so much later than those before: the sound between is gone. A
sound server that moves its buffers about stays below it."""
MAX_SLEW = 1e-3
"""Seconds per second: ten times what a sound card's crystal is off by, and 3 ms in a window"""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a block stands in time."""

    captured_at: int
    """Instant of its first sample"""
    n_lost: int
    """Samples lost before it"""
    stepped: bool = False
    """The wall clock was set: instants jump here, the sound does not"""


class Anchor:
    """Ties the sample count of a live source to the wall clock.

    Instants never go back within a run, except where the wall clock was set back by more than
    `STEP_US`. Not thread-safe.
    """

    def __init__(self, clock: Clock, sample_rate: int, n: int, arrived: float) -> None:
        """Begin with a first block of `n` samples that arrived at `arrived` (monotonic)."""
        self._clock = clock
        self._sample_rate = sample_rate
        self._offset = self._wall_less_monotonic()
        self._at = self._arrival(arrived) - self._duration(n)
        self._counted = 0
        """Samples since `_at`"""
        self._slew = 0.0
        self._renewed = arrived
        self._least_late = math.inf
        self._punctuality = _Punctuality(sample_rate, n, arrived)

    @property
    def ahead_s(self) -> float:
        """Return by how much the count runs ahead of the clock: a device faster than it says."""
        return 0.0 if math.isinf(self._least_late) else max(0.0, -self._least_late / US_PER_S)

    def place(self, n: int, arrived: float, n_dropped: int = 0, overflowed: bool = False) -> Placed:
        """Return where the next block stands.

        Args:
            n: samples in the block.
            arrived: monotonic seconds at which its last sample came.
            n_dropped: samples known to be lost before it.
            overflowed: an unknown number was lost besides; it is told from the clock, at least 1.
        """
        stepped = self._follow_wall()
        n_lost = n_dropped
        if overflowed:
            n_lost += max(1, self._samples(self._late(n_dropped + n, arrived)))
        self._counted += n_lost
        n_missing = self._punctuality.missing(n_lost + n, arrived)
        self._counted += n_missing
        n_lost += n_missing + self._check(n, arrived)
        captured_at = self._instant(self._counted)
        self._counted += n
        return Placed(captured_at, n_lost, stepped)

    def resume(self, sample_rate: int, n: int, arrived: float) -> Placed:
        """Return where the first block after an interruption stands, perhaps at another rate."""
        stepped = self._follow_wall()
        ended_at = self._instant(self._counted)
        self._sample_rate = sample_rate
        n_lost = max(1, self._samples(self._arrival(arrived) - self._duration(n) - ended_at))
        captured_at = ended_at + self._duration(n_lost)
        self._at, self._counted, self._slew = captured_at, n, 0.0
        self._renewed, self._least_late = arrived, math.inf
        self._punctuality = _Punctuality(sample_rate, n, arrived)
        return Placed(captured_at, n_lost, stepped)

    def _check(self, n: int, arrived: float) -> int:
        """Compare count and clock; return samples that went missing without a word."""
        late = self._late(n, arrived)
        self._least_late = min(self._least_late, late)
        if arrived - self._renewed < RENEW_S:
            return 0
        error, self._least_late = self._least_late, late
        self._at, self._counted = self._instant(self._counted), 0
        self._renewed = arrived
        if error > STEP_US:
            self._at += round(error)
            self._slew = 0.0
            self._least_late = math.inf
            return self._samples(error)
        self._slew = min(max(error / (RENEW_S * US_PER_S), -MAX_SLEW), MAX_SLEW)
        return 0

    def _follow_wall(self) -> bool:
        offset = self._wall_less_monotonic()
        step, self._offset = offset - self._offset, offset
        if abs(step) <= STEP_US:
            return False
        self._at += step
        return True

    def _late(self, n: int, arrived: float) -> float:
        """Return microseconds by which a block's end came after its count says."""
        return self._arrival(arrived) - self._instant(self._counted + n)

    def _instant(self, counted: int) -> int:
        return self._at + round(counted * (1 + self._slew) * US_PER_S / self._sample_rate)

    def _arrival(self, arrived: float) -> int:
        return round(arrived * US_PER_S) + self._offset

    def _wall_less_monotonic(self) -> int:
        return self._clock.wall() - round(self._clock.monotonic() * US_PER_S)

    def _duration(self, n: int) -> int:
        return round(n * US_PER_S / self._sample_rate)

    def _samples(self, duration_us: float) -> int:
        return round(duration_us * self._sample_rate / US_PER_S)


class _Punctuality:
    """Notices, by the monotonic clock alone, that sound went missing without a word."""

    def __init__(self, sample_rate: int, n: int, arrived: float) -> None:
        self._sample_rate = sample_rate
        self._began = arrived - n / sample_rate
        self._n = 0
        self._looked = arrived
        self._least_s = math.inf
        self._usual_s: float | None = None

    def missing(self, n: int, arrived: float) -> int:
        """Count in samples that came or are known to be lost; return how many more are missing."""
        self._n += n
        late_s = arrived - self._began - self._n / self._sample_rate
        self._least_s = min(self._least_s, late_s)
        if arrived - self._looked < LOOK_S:
            return 0
        least_s, self._least_s, self._looked = self._least_s, math.inf, arrived
        later_s = 0.0 if self._usual_s is None else least_s - self._usual_s
        self._usual_s = least_s
        if later_s < MISSING_S:
            return 0
        n_missing = round(later_s * self._sample_rate)
        self._n += n_missing
        self._usual_s -= later_s
        return n_missing
