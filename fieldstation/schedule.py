"""What happens by the clock: at a time of day, or every so many seconds.

APScheduler only says when it is a time of day; the chores' own thread does the work. It counts the
seconds too, by the monotonic clock: a machine that begins in 1970 and is set to now would have
APScheduler list every minute between (29 million; 1 GB was seen).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.cron import CronTrigger

log = logging.getLogger(__name__)

TURN_S = 0.5
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Chore:
    """Work with a time. `work` says in words what it did, or an empty text."""

    name: str
    work: Callable[[], str]
    at: str = ""
    """Time of day `HH:MM` in the station's zone; or empty, then `every_s`"""
    every_s: float = 0.0
    first_s: float | None = None
    """After the start, where that is sooner than `every_s`"""
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
        self._asked_on: dict[str, date] = {}

    def request(self, name: str) -> None:
        """Ask for a chore from any thread; one already waiting is not asked for twice."""
        with self._lock:
            if name in self._waiting:
                return
            self._waiting.add(name)
        self._requests.put(name)

    def request_on(self, day: date, name: str) -> None:
        """Ask for a chore unless it was asked for that day: in autumn 02:30 comes twice."""
        if self._asked_on.get(name) != day:
            self._asked_on[name] = day
            self.request(name)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Do what is requested until told to stop."""
        began = time.monotonic()
        due = {
            chore.name: began + (chore.every_s if chore.first_s is None else chore.first_s)
            for chore in self.chores
            if chore.every_s
        }
        while not stop.is_set():
            beat()
            for name in [name for name, at in due.items() if time.monotonic() >= at]:
                due[name] = time.monotonic() + self._by_name[name].every_s
                self.request(name)
            try:
                name = self._requests.get(timeout=TURN_S)
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
            if chore.at:
                ask = partial(_ask_daily, stage, timezone)
                scheduler.add_job(ask, _trigger(chore, timezone), args=[chore.name], id=chore.name)
    scheduler.start()
    return scheduler


def _ask_daily(stage: Chores, timezone: str, name: str) -> None:
    stage.request_on(datetime.now(ZoneInfo(timezone)).date(), name)


def follow_clock(
    scheduler: BackgroundScheduler, stages: Sequence[Chores], timezone: str, step_s: float
) -> None:
    """Let chores come at their times of day by a clock that was set.

    What a step of hours passed over is done at once. Set back, or by days, what is due next is
    planned anew: it would not come before the old clock's time, which may be a year away.
    """
    if not 0 <= step_s <= DAY_S:
        for stage in stages:
            for chore in stage.chores:
                if chore.at:
                    scheduler.reschedule_job(chore.name, trigger=_trigger(chore, timezone))
    scheduler.wakeup()


def _trigger(chore: Chore, timezone: str) -> CronTrigger:
    """Return when a chore is due."""
    from apscheduler.triggers.cron import CronTrigger

    hour, minute = map(int, chore.at.split(":"))
    return CronTrigger(hour=hour, minute=minute, timezone=timezone)
