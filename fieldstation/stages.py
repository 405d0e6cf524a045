"""Threads that are watched: a stage runs in one, beats, and is alive while it beats in time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from fieldstation.clock import Clock
from fieldstation.errors import MendableError

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
"""Longest wait for a stage that was told to stop"""


class Stage(Protocol):
    """A part of the station that loops in a thread of its own."""

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Loop until `stop` is set, calling `beat` at least once a second.

        Waiting with back-off for a device, broker or disk is a turn of the loop too. An
        exception that gets out ends the process: the supervisor starts it afresh.
        """
        ...


class StageThread:
    """One stage in its thread.

    Args:
        deadline_s: a stage that has not beaten for this long counts as hung.
    """

    def __init__(self, name: str, stage: Stage, clock: Clock, deadline_s: float = 20.0) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self._stage = stage
        self._clock = clock
        self._deadline_s = deadline_s
        self._stop = threading.Event()
        self._beaten_at = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._beaten_at = self._clock.monotonic()
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Return whether the thread has returned, well or not."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def late_s(self) -> float:
        """Return by how much the last beat is overdue; 0 while the stage is alive in time."""
        if not self._thread.is_alive():
            return 0.0
        return max(0.0, self._clock.monotonic() - self._beaten_at - self._deadline_s)

    def tell_stop(self) -> None:
        """Ask the stage to return; do not wait."""
        self._stop.set()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Ask the stage to return and wait; return whether it did."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("%s did not stop within %.0f s", self.name, timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._stage.run(self._stop, self._beat)
        except MendableError as error:  # its text says it all
            self.failure = error
        except BaseException as error:  # the top of a thread: kept for the main thread to judge
            self.failure = error
            log.exception("%s broke", self.name)

    def _beat(self) -> None:
        self._beaten_at = self._clock.monotonic()
