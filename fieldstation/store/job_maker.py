"""Which new detections shall have a picture: made in the transaction that writes their rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, tuple_, update

from fieldstation.clock import US_PER_S, local
from fieldstation.records import Detection, JobState
from fieldstation.store.log_tables import COUNTERS, JOBS
from fieldstation.store.upsert import insert

log = logging.getLogger(__name__)

US_PER_HOUR = 3_600 * US_PER_S
AGAIN, LATER, FIRST = 0, 1, 2
"""Priorities: painted again by request; a species heard before on that day; its first"""
DROPPED = "jobs_dropped"
"""Counter: jobs that gave way because the queue was full"""
GAVE_WAY = "gave way to others: the queue was full"

MOST_SAID = 100
"""Different reasons for no picture, of which a stranger may make up any number"""

Day = tuple[str, str, str]
"""Station, local date, scientific name"""
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Which events are painted."""

    which: str = "every"
    """every, daily (the first of a species' day at a station), or hourly (at most `per_hour`)"""
    per_hour: int = 12
    """Of each station, by the hour in which the birds were heard"""
    min_probability: float = 0.0
    limit: int = 1_000
    """Jobs that may wait; beyond it the oldest of the lowest priority give way"""
    paints: frozenset[str] | None = None
    """Scientific names; None: any"""
    encoder_id: str | None = None
    """Whose embeddings the generator knows; None: any"""


class JobMaker:
    """Makes jobs by a policy; says once what it makes none for."""

    def __init__(self, policy: JobPolicy) -> None:
        self.policy = policy
        self._said: set[str] = set()

    def make(self, connection: Connection, new: Sequence[Detection], now: int) -> None:
        """Make the jobs of detections that were not in the log before this transaction."""
        wanted = sorted(filter(self._is_paintable, new), key=lambda d: (d.started_at, d.event_id))
        if not wanted:
            return
        chosen = self._choose(connection, wanted)
        rows = [job_values(d, priority, now) for d, priority in chosen]
        if rows:
            statement = insert(connection, JOBS)
            connection.execute(statement.on_conflict_do_nothing(index_elements=["event_id"]), rows)
            make_room(connection, self.policy.limit, now)

    def _is_paintable(self, detection: Detection) -> bool:
        policy, name = self.policy, detection.scientific_name
        if policy.paints is not None and name not in policy.paints:
            self._say(f"no pictures of {detection.common_name} ({name}): the bundle paints none")
            return False
        foreign = detection.embedding and policy.encoder_id not in (None, detection.encoder_id)
        if foreign:
            self._say(
                f"no pictures of what encoder {detection.encoder_id} names ({detection.station}): "
                f"the generator was made for {policy.encoder_id}"
            )
            return False
        return detection.probability >= policy.min_probability

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < MOST_SAID:
            self._said.add(text)
            log.info("%s", text)

    def _choose(
        self, connection: Connection, wanted: list[Detection]
    ) -> list[tuple[Detection, int]]:
        """Return what the policy lets through, with priorities, in order of time."""
        known = _days_with_job(connection, {_day(d) for d in wanted})
        hours = _Hours(connection, self.policy.per_hour)
        chosen: list[tuple[Detection, int]] = []
        for detection in wanted:
            is_first = _day(detection) not in known
            if self.policy.which == "daily" and not is_first:
                continue
            if self.policy.which == "hourly" and not hours.take(detection):
                continue
            known.add(_day(detection))
            chosen.append((detection, FIRST if is_first else LATER))
        return chosen


class _Hours:
    """How many pictures are left of each station's hours."""

    def __init__(self, connection: Connection, per_hour: int) -> None:
        self._connection = connection
        self._per_hour = per_hour
        self._left: dict[tuple[str, int], int] = {}

    def take(self, detection: Detection) -> bool:
        """Take one of a detection's hour; False where none is left."""
        hour = detection.station, detection.started_at // US_PER_HOUR
        if hour not in self._left:
            self._left[hour] = self._per_hour - self._n_made(*hour)
        self._left[hour] -= 1
        return self._left[hour] >= 0

    def _n_made(self, station: str, hour: int) -> int:
        start = hour * US_PER_HOUR
        made = select(func.count()).where(
            JOBS.c.station == station,
            JOBS.c.started_at >= start,
            JOBS.c.started_at < start + US_PER_HOUR,
        )
        return int(self._connection.execute(made).scalar_one())


def make_room(connection: Connection, limit: int, now: int) -> int:
    """Drop the oldest jobs of the lowest priority beyond a limit; return and count how many."""
    queued = JOBS.c.state == JobState.QUEUED.value
    n = int(connection.execute(select(func.count()).where(queued)).scalar_one())
    if n <= limit:
        return 0
    # Rows that a worker is just claiming are passed over: they do not wait any more.
    going = (
        select(JOBS.c.id)
        .where(queued)
        .order_by(JOBS.c.priority, JOBS.c.id)
        .limit(n - limit)
        .with_for_update(skip_locked=True)
    )
    ids = connection.execute(going).scalars().all()
    dropped = update(JOBS).where(JOBS.c.id.in_(ids))
    connection.execute(dropped.values(state=JobState.DROPPED.value, reason=GAVE_WAY, ended_at=now))
    count(connection, DROPPED, len(ids))
    return len(ids)


def count(connection: Connection, name: str, n: int) -> None:
    """Add to a counter."""
    statement = insert(connection, COUNTERS)
    more = statement.on_conflict_do_update(
        index_elements=["name"], set_={"n": COUNTERS.c.n + statement.excluded.n}
    )
    connection.execute(more, {"name": name, "n": n})


def job_values(detection: Detection, priority: int, now: int) -> Values:
    """Return the row of a job that waits."""
    return {
        "event_id": detection.event_id,
        "station": detection.station,
        "started_at": detection.started_at,
        "local_date": _day(detection)[1],
        "scientific_name": detection.scientific_name,
        "priority": priority,
        "state": JobState.QUEUED.value,
        "n_failures": 0,
        "n_deaths": 0,
        "made_at": now,
    }


def _day(detection: Detection) -> Day:
    date = local(detection.started_at, detection.timezone).date().isoformat()
    return detection.station, date, detection.scientific_name


def _days_with_job(connection: Connection, days: Iterable[Day]) -> set[Day]:
    """Return the days of which a bird was chosen before."""
    columns = JOBS.c.station, JOBS.c.local_date, JOBS.c.scientific_name
    found = connection.execute(select(*columns).distinct().where(tuple_(*columns).in_(list(days))))
    return {(station, date, name) for station, date, name in found}
