"""Watches stages from the main thread: signals, watchdog, and who may end the process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType

from fieldstation.clock import Clock
from fieldstation.notify import Notifier
from fieldstation.stages import Stage, StageThread

log = logging.getLogger(__name__)

TICK_S = 0.25
"""How often the main thread looks: the meter's rate, and the wait after Ctrl-C"""


class Supervisor:
    """Starts stages, watches them, and knows when to stop. For the main thread.

    The watchdog is fed only while every stage is in time: a hung station is restarted whole.
    """

    def __init__(self, clock: Clock, notifier: Notifier) -> None:
        self._clock = clock
        self._notifier = notifier
        self._stages: list[StageThread] = []
        self._asked = False
        # No Event: a signal's handler runs in the midst of the main thread's wait, and would wait
        # for ever for the lock that this wait holds. A SimpleQueue takes an item even then.
        self._requests: SimpleQueue[int] = SimpleQueue()
        self._late: set[str] = set()

    @property
    def asked_to_stop(self) -> bool:
        """Return whether a signal asked for the end."""
        return self._asked

    @property
    def failure(self) -> BaseException | None:
        """Return what a stage failed with, or None while all are well."""
        return next((stage.failure for stage in self._stages if stage.failure is not None), None)

    def take_signals(self) -> None:
        """From now on SIGTERM and SIGINT ask for an orderly end; a second SIGINT does not ask."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def start(self, name: str, stage: Stage, deadline_s: float = 20.0) -> StageThread:
        """Start a stage in a watched thread."""
        thread = StageThread(name, stage, self._clock, deadline_s)
        self._stages.append(thread)
        thread.start()
        return thread

    def watch(
        self, is_done: Callable[[], bool] = lambda: False, tick: Callable[[], None] = lambda: None
    ) -> None:
        """Look after the stages until a signal, or until `is_done`.

        Raises:
            BaseException: what a stage failed with.
        """
        while not self._is_asked_within(TICK_S):
            done = is_done()
            self.look()
            if self.failure is not None:  # asked last: what ended may have ended badly
                raise self.failure
            tick()
            if done:
                return

    def look(self) -> None:
        """Look at every stage once, and feed the watchdog if all are in time."""
        late = {stage.name: stage.late_s() for stage in self._stages if stage.late_s() > 0}
        for name in late.keys() - self._late:
            log.error("%s hangs: no turn of its loop for too long", name)
        for name in self._late - late.keys():
            log.info("%s turns again", name)
        self._late = set(late)
        if not late:
            self._notifier.alive()

    def late(self) -> list[str]:
        """Return the stages that hang, for health."""
        return sorted(self._late)

    def _is_asked_within(self, seconds: float) -> bool:
        try:
            self._requests.get(timeout=seconds)
        except Empty:
            return self._asked
        return True

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        self._requests.put(number)
