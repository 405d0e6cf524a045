"""Stand-ins that more than one room's tests need."""

from __future__ import annotations


class FakeClock:
    """A clock that moves when told; the wall can step by itself."""

    def __init__(self, wall: int = 1_750_000_000_000_000, monotonic: float = 100.0) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def wall(self) -> int:
        """Return the instant."""
        return self._wall

    def monotonic(self) -> float:
        """Return the seconds."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall += round(seconds * 1_000_000)
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP does."""
        self._wall += round(seconds * 1_000_000)
