"""A running station's side of its pictures: the queue that it fills, the worker that it started.

Nothing of the generator is loaded here: a picture costs the ear a row in the log.
"""

from __future__ import annotations

import logging

from fieldstation.bundle import Bundle
from fieldstation.clock import Clock
from fieldstation.config import Settings
from fieldstation.pictures import are_wanted
from fieldstation.store.errors import StoreError
from fieldstation.store.jobs import Jobs, QueueState
from fieldstation.store.late_log import LateLog
from fieldstation.words import counted
from fieldstation.worker_process import Command, WorkerProcess

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often the log is asked by who waits for all pictures"""


class Painting:
    """The pictures of one run. `start`, `check` and `stop` are the main thread's."""

    def __init__(
        self,
        settings: Settings,
        bundle: Bundle,
        station: str,
        log: LateLog | None,
        command: Command | None,
        clock: Clock,
    ) -> None:
        """Nothing happens before `start`.

        Args:
            station: whose pictures are waited for.
            log: holds the queue; None where a hub's does.
            command: starts the worker; None: somebody else does.
        """
        self._settings = settings
        self._bundle = bundle
        self._station = station
        wanted = log is not None and are_wanted(settings, bundle)
        self._jobs = Jobs(lambda: log.opened().database, clock.wall) if log and wanted else None
        self._worker = WorkerProcess(command) if command and wanted else None
        self._state = QueueState()
        self._clock = clock
        self._next_look_at = 0.0

    def describe(self) -> str:
        """Return what a terminal shows."""
        if self._settings.generation.enabled is False:
            return "off (generation.enabled = false)"
        if self._jobs is None:
            return "off (the bundle paints nothing)" if self._settings.log.enabled else "a hub's"
        by = "the worker beside it" if self._worker else "whatever worker looks into the log"
        card = self._bundle.generator
        return f"{len(card.paints)} species, by {by}" if card else f"by {by}"

    def start(self) -> None:
        """Start the worker, where it is ours to start."""
        if self._worker:
            self._worker.start()

    def check(self) -> None:
        """Start a dead worker again."""
        if self._worker:
            self._worker.check()

    def stop(self) -> None:
        """End the worker; what waits stays in the log."""
        if self._worker:
            self._worker.stop()
        self._look()

    def all_done(self) -> bool:
        """Return whether no picture of this station is to be waited for any more."""
        if self._jobs is None or (self._worker and self._worker.fault):
            return True
        now = self._clock.monotonic()
        if now < self._next_look_at:
            return False
        self._next_look_at = now + LOOK_S
        return self._look() and self._state.n_waiting == self._state.n_unpublished == 0

    def state(self) -> QueueState:
        """Return how the queue was when it was last looked at."""
        return self._state

    def health(self) -> dict[str, object]:
        """Return what health tells of pictures; old counts while the log cannot be read."""
        if self._jobs is None:
            return {}
        if not self._look():
            log.warning("health tells old counts of pictures: the log cannot be read")
        state = self._state
        return {
            "n_pictures_waiting": state.n_waiting,
            "n_pictures_parked": state.n_parked,
            "n_pictures_dropped": state.n_dropped,
            "ms_per_picture": None if state.ms_per_image is None else round(state.ms_per_image, 1),
            "painter": state.provider,
        }

    def problems(self) -> list[str]:
        """Return what is wrong, in words; asks no disk."""
        found = [self._worker.fault] if self._worker and self._worker.fault else []
        if self._state.n_parked:
            found.append(
                f"{counted(self._state.n_parked, 'picture')} cannot be painted "
                f"({self._state.reason}): see `fieldstation images --only parked`"
            )
        return found

    def _look(self) -> bool:
        """Look at the queue; return whether that was possible."""
        if self._jobs is None:
            return False
        try:
            self._state = self._jobs.state(self._station)
        except StoreError:  # whoever uses the log next says what is wrong
            return False
        return True
