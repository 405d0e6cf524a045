"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double up to a limit, each shortened at random so that a fleet does not march."""

    def __init__(self, first_s: float = 1.0, longest_s: float = 60.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next(self) -> float:
        """Return the seconds to wait now: half to all of the current step."""
        step = self._next_s
        self._next_s = min(2 * step, self._longest_s)
        return step * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin with the shortest wait again: it worked."""
        self._next_s = self._first_s
