"""What happens by the clock. APScheduler only says when; the chores' own thread does the work."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Work with a time. `work` says in words what it did, or an empty text."""

    name: str
    work: Callable[[], str]
    at: str = ""
    """Time of day `HH:MM` in the station's zone; or empty, then `every_s`"""
    every_s: float = 0.0
    on_fault: tuple[type[Exception], ...] = (OSError,)
    """What the work may meet without the station being broken; tried again next time"""


class Chores:
    """A stage: does requested chores one after the other, so that none overlaps itself."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self.chores = tuple(chores)
        self._by_name = {chore.name: chore for chore in chores}
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}

    def request(self, name: str) -> None:
        """Ask for a chore from any thread; one already waiting is not asked for twice."""
        with self._lock:
            if name in self._waiting:
                return
            self._waiting.add(name)
        self._requests.put(name)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Do what is requested until told to stop."""
        while not stop.is_set():
            beat()
            try:
                name = self._requests.get(timeout=0.5)
            except queue.Empty:
                continue
            with self._lock:
                self._waiting.discard(name)
            self._do(self._by_name[name])

    def state(self) -> dict[str, str]:
        """Return the chores whose last try failed, with the reason."""
        return dict(self._failed)

    def _do(self, chore: Chore) -> None:
        try:
            done = chore.work()
        except chore.on_fault as error:
            self._failed[chore.name] = str(error)
            log.warning("%s did not succeed: %s", chore.name, error)
        else:
            self._failed.pop(chore.name, None)
            if done:
                log.info("%s: %s", chore.name, done)


def start(stages: Sequence[Chores], timezone: str) -> BackgroundScheduler:
    """Start the one scheduler; its jobs only ask a stage for a chore.

    One worker, jobs in memory, missed runs coalesced into one that is never too late: a laptop
    that slept through the backup makes it when it wakes.
    """
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler

    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "misfire_grace_time": None},
        timezone=timezone,
    )
    for stage in stages:
        for chore in stage.chores:
            if trigger := _trigger(chore, timezone):
                scheduler.add_job(stage.request, trigger, args=[chore.name], id=chore.name)
    scheduler.start()
    return scheduler


def _trigger(chore: Chore, timezone: str) -> Any:
    """Return when a chore is due; None for one that is only asked for by hand."""
    from apscheduler.triggers.cron import CronTrigger
    from apscheduler.triggers.interval import IntervalTrigger

    if chore.at:
        hour, minute = map(int, chore.at.split(":"))
        return CronTrigger(hour=hour, minute=minute, timezone=timezone)
    return IntervalTrigger(seconds=chore.every_s, timezone=timezone) if chore.every_s else None
