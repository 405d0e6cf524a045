"""Lines about what strangers send: one at once, then one a minute with how many there were."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 60.0


class Seldom:
    """Passes lines on to a log, so that who sends much nonsense does not fill the disk with it."""

    def __init__(
        self,
        tell: Callable[[str], None],
        every_s: float = EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing told.

        Args:
            tell: writes a line.
            every_s: at most one in so long.
            monotonic: the seconds now.
        """
        self._tell = tell
        self._every_s = every_s
        self._monotonic = monotonic
        self._next_at = float("-inf")
        self._n_held = 0
        self._last = ""

    def say(self, text: str) -> None:
        """Tell a line now, or hold it and count."""
        self._n_held += 1
        self._last = text
        self.turn()

    def turn(self) -> None:
        """Tell what is held, when its time has come; call it now and then."""
        if not self._n_held or self._monotonic() < self._next_at:
            return
        before = f" ({self._n_held - 1} more before it)" if self._n_held > 1 else ""
        self._tell(self._last + before)
        self._next_at = self._monotonic() + self._every_s
        self._n_held = 0
