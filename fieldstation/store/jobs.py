"""The queue of pictures: claimed with a lease, done, failed, given back; on both databases.

A claim counts before anything is painted, so that a worker which dies tells by its silence:
`n_deaths` is how many claims of a job ended without a word. After the first, the job is claimed
alone, since nobody knows whose fault it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    case,
    delete,
    func,
    or_,
    select,
    true,
    update,
)

from fieldstation.clock import US_PER_S
from fieldstation.records import Image, Job, JobState
from fieldstation.store.database import Database
from fieldstation.store.images import n_unpublished, record_image
from fieldstation.store.job_maker import DROPPED
from fieldstation.store.log_tables import COUNTERS, DETECTIONS, EMBEDDINGS, IMAGES, JOBS
from fieldstation.store.retention import Pause, delete_some, pause

log = logging.getLogger(__name__)

LEASE_S = 900.0
"""A batch takes seconds. Who vanished with another machine is waited for that long"""
MOST_FAILURES = 3
MOST_DEATHS = 1 + 20
"""The first may have been another's fault; the others it died alone"""
RECENT = 20
"""Pictures of which the pace is told"""

FOREIGN = "the embedding is not of encoder {}, which the generator knows: hear the recording again"

QUEUED, CLAIMED, DONE = JobState.QUEUED.value, JobState.CLAIMED.value, JobState.DONE.value
PARKED = JobState.PARKED.value


@dataclass(frozen=True, slots=True)
class QueueState:
    """For health and `check`."""

    n_queued: int = 0
    n_claimed: int = 0
    n_parked: int = 0
    n_dropped: int = 0
    """Since the log was made"""
    n_unpublished: int = 0
    ms_per_image: float | None = None
    """Mean of the newest pictures that were painted here"""
    provider: str | None = None
    """What ran the generator last"""
    reason: str = ""
    """Why the newest parked job is parked"""

    @property
    def n_waiting(self) -> int:
        """Return the jobs that a worker will end."""
        return self.n_queued + self.n_claimed


class Jobs:
    """The queue, for a worker. Methods but `prune` are one transaction each.

    Any may raise StoreUnavailable.
    """

    def __init__(self, database: Callable[[], Database], wall: Callable[[], int]) -> None:
        """Say where the log is.

        Args:
            database: gives the open log, now or as soon as it answers.
            wall: the instant now.
        """
        self._database = database
        self._wall = wall

    def claim(self, worker: str, n: int, encoder_id: str | None = None) -> list[Job]:
        """Return at most `n` jobs that are this worker's for the time of a lease.

        Args:
            encoder_id: whose embeddings it paints from; what waits with another's is parked, all of
                it at once. None: anybody's.
        """
        now, n_foreign = self._wall(), 0
        with self._database().read() as connection:  # most often nothing waits: no lock for that
            if connection.execute(select(JOBS.c.id).where(_is_due(now)).limit(1)).first() is None:
                return []
        with self._database().write() as connection:
            _take_back(connection, (JOBS.c.lease_ends_at < now), now)
            jobs: list[Job] = []
            while not jobs and (ids := _choose(connection, n)):
                jobs = _read(connection, ids)
                _forget(connection, set(ids) - {job.id for job in jobs})
                if encoder_id and any(_is_foreign(job, encoder_id) for job in jobs):
                    jobs, n_foreign = [], n_foreign + _park_foreign(connection, encoder_id, now)
            _lease(connection, [job.id for job in jobs], worker, now)
        if n_foreign:
            log.warning("jobs parked: %d; of each %s", n_foreign, FOREIGN.format(encoder_id))
        return jobs

    def take_over(self, workers: Sequence[str]) -> int:
        """Take back the claims of dead workers; return how many there were."""
        with self._database().write() as connection:
            return _take_back(connection, JOBS.c.worker.in_(list(workers)), self._wall())

    def finish(self, job: Job, worker: str, image: Image) -> bool:
        """Record a job's picture and end the job; return whether the picture is a new one.

        Painted again by request it may be another of the same seed. Who has lost the job to another
        worker replaces nothing: that one's picture may be in another folder.
        """
        now = self._wall()
        ours = JOBS.c.state == CLAIMED, JOBS.c.worker == worker
        with self._database().write() as connection:
            held = select(JOBS.c.id).where(JOBS.c.id == job.id, *ours)
            is_held = connection.execute(held).first() is not None
            is_new = record_image(connection, image, replaces=is_held)
            _end(connection, job.event_id, now, *ours)
            return is_new

    def fail(self, job: Job, worker: str, reason: str, for_good: bool = False) -> bool:
        """Count an exception; return whether the job is parked now."""
        now = self._wall()
        n = JOBS.c.n_failures + 1
        parks = (n >= MOST_FAILURES) if not for_good else (n > 0)
        with self._database().write() as connection:
            statement = _held(job, worker).values(
                state=case((parks, PARKED), else_=QUEUED),
                ended_at=case((parks, now), else_=None),
                n_failures=n,
                n_deaths=JOBS.c.n_deaths - 1,
                reason=reason,
                **_FREE,
            )
            state = connection.execute(statement.returning(JOBS.c.state)).scalar()
        return state == PARKED

    def give_back(self, jobs: Sequence[Job], worker: str) -> None:
        """Let others have jobs that were claimed and not painted; nothing is counted."""
        with self._database().write() as connection:
            for job in jobs:
                free = _held(job, worker).values(
                    state=QUEUED, n_deaths=JOBS.c.n_deaths - 1, **_FREE
                )
                connection.execute(free)

    def prune(self, before: int, go_on: Pause = pause) -> None:
        """Forget what ended before an instant, and embeddings of then that nobody waits for.

        A few rows to a transaction, so that whoever writes meanwhile hardly waits.
        """
        waiting = select(JOBS.c.event_id).where(JOBS.c.state.in_((QUEUED, CLAIMED)))
        e = EMBEDDINGS.c
        old = (e.received_at < before) & e.event_id.not_in(waiting)
        for key, which in ((JOBS.c.id, JOBS.c.ended_at < before), (e.event_id, old)):
            while delete_some(self._database(), key, which) and go_on():
                pass

    def state(self, station: str | None = None) -> QueueState:
        """Return how the queue is, of one station's events or of all."""
        with self._database().read() as connection:
            return queue_state(connection, station)


_FREE = {"worker": None, "lease_ends_at": None}


def queue_state(connection: Connection, station: str | None = None) -> QueueState:
    """Return how the queue is, of one station's events or of all."""
    ours = true() if station is None else JOBS.c.station == station
    undone = ours & JOBS.c.state.in_((QUEUED, CLAIMED, PARKED))
    by_state = select(JOBS.c.state, func.count().label("n")).where(undone).group_by(JOBS.c.state)
    n: dict[str, int] = {row.state: row.n for row in connection.execute(by_state)}
    dropped = select(COUNTERS.c.n).where(COUNTERS.c.name == DROPPED)
    parked = select(JOBS.c.reason).where(ours, JOBS.c.state == PARKED)
    ms_per_image, provider = _pace(connection)
    return QueueState(
        n_queued=n.get(QUEUED, 0),
        n_claimed=n.get(CLAIMED, 0),
        n_parked=n.get(PARKED, 0),
        n_dropped=connection.execute(dropped).scalar() or 0,
        n_unpublished=n_unpublished(connection, station),
        ms_per_image=ms_per_image,
        provider=provider,
        reason=connection.execute(parked.order_by(JOBS.c.ended_at.desc()).limit(1)).scalar() or "",
    )


def end_painted_elsewhere(connection: Connection, event_id: str, now: int) -> None:
    """End a job whose picture somebody else has painted."""
    _end(connection, event_id, now, JOBS.c.state == QUEUED)


def _is_due(now: int) -> ColumnElement[bool]:
    expired = (JOBS.c.state == CLAIMED) & (JOBS.c.lease_ends_at < now)
    return or_(JOBS.c.state == QUEUED, expired)


def _take_back(connection: Connection, whose: ColumnElement[bool], now: int) -> int:
    """Queue claims whose worker is dead; park what has been its end too often."""
    fatal = JOBS.c.n_deaths >= MOST_DEATHS
    statement = (
        update(JOBS)
        .where(JOBS.c.state == CLAIMED, whose)
        .values(
            state=case((fatal, PARKED), else_=QUEUED),
            ended_at=case((fatal, now), else_=None),
            reason=case((fatal, f"its worker died {MOST_DEATHS} times"), else_="its worker died"),
            **_FREE,
        )
    )
    return connection.execute(statement).rowcount


def _choose(connection: Connection, n: int) -> list[int]:
    """Return the next jobs, locked: blameless ones first; what was a worker's end goes alone."""
    order = JOBS.c.n_deaths, JOBS.c.n_failures, JOBS.c.priority.desc(), JOBS.c.id.desc()
    waiting = select(JOBS.c.id, JOBS.c.n_deaths).where(JOBS.c.state == QUEUED)
    rows = connection.execute(
        waiting.order_by(*order).limit(n).with_for_update(skip_locked=True)
    ).all()
    if rows and rows[0].n_deaths > 0:
        return [rows[0].id]
    return [row.id for row in rows if row.n_deaths == 0]


def _lease(connection: Connection, ids: list[int], worker: str, now: int) -> None:
    if not ids:
        return
    connection.execute(
        update(JOBS)
        .where(JOBS.c.id.in_(ids))
        .values(
            state=CLAIMED,
            worker=worker,
            lease_ends_at=now + round(LEASE_S * US_PER_S),
            n_deaths=JOBS.c.n_deaths + 1,
        )
    )


def _is_foreign(job: Job, encoder_id: str) -> bool:
    """Return whether a job can be painted neither from its embedding nor from its species alone."""
    return job.embedding is not None and job.encoder_id != encoder_id


def _park_foreign(connection: Connection, encoder_id: str, now: int) -> int:
    """Park all that waits with another encoder's embedding; return how many that were.

    What another worker is just claiming is left to it: two that waited for each other's rows would
    wait for good.
    """
    foreign = (
        select(JOBS.c.id)
        .join(DETECTIONS, DETECTIONS.c.event_id == JOBS.c.event_id)
        .join(EMBEDDINGS, EMBEDDINGS.c.event_id == JOBS.c.event_id)
        .where(JOBS.c.state == QUEUED, DETECTIONS.c.encoder_id != encoder_id)
        .with_for_update(skip_locked=True, of=JOBS)
    )
    parked = update(JOBS).where(JOBS.c.id.in_(foreign))
    reason = FOREIGN.format(encoder_id)
    return connection.execute(parked.values(state=PARKED, ended_at=now, reason=reason)).rowcount


def _forget(connection: Connection, ids: set[int]) -> None:
    """Delete jobs whose events have left the log: there is nothing to paint any more."""
    if ids:
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(ids)))


def _read(connection: Connection, ids: list[int]) -> list[Job]:
    """Return jobs with their events and embeddings, in the order of their ids."""
    d = DETECTIONS.c
    query = (
        select(
            JOBS.c.id,
            d.event_id,
            d.station,
            d.started_at,
            d.timezone,
            d.scientific_name,
            d.common_name,
            d.probability,
            d.encoder_id,
            EMBEDDINGS.c.embedding,
        )
        .join(DETECTIONS, d.event_id == JOBS.c.event_id)
        .join(EMBEDDINGS, EMBEDDINGS.c.event_id == JOBS.c.event_id, isouter=True)
        .where(JOBS.c.id.in_(ids))
        .order_by(JOBS.c.id)
    )
    return [Job(**row) for row in connection.execute(query).mappings()]


def _held(job: Job, worker: str) -> Update:
    """Return the update of a job that is still this worker's."""
    return update(JOBS).where(JOBS.c.id == job.id, JOBS.c.state == CLAIMED, JOBS.c.worker == worker)


def _end(connection: Connection, event_id: str, now: int, *conditions: ColumnElement[bool]) -> None:
    done = update(JOBS).where(JOBS.c.event_id == event_id, *conditions)
    connection.execute(
        done.values(state=DONE, ended_at=now, reason=None, n_failures=0, n_deaths=0, **_FREE)
    )


def _pace(connection: Connection) -> tuple[float | None, str | None]:
    """Return the mean milliseconds of the newest pictures painted here, and what ran them."""
    newest = (
        select(IMAGES.c.paint_ms, IMAGES.c.provider)
        .where(IMAGES.c.paint_ms.is_not(None))
        .order_by(IMAGES.c.id.desc())
        .limit(RECENT)
    )
    rows = connection.execute(newest).all()
    if not rows:
        return None, None
    return sum(row.paint_ms for row in rows) / len(rows), rows[0].provider
