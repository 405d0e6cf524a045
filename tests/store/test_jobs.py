"""The queue: claims, ends, exceptions, deaths, two workers; on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from fieldstation.records import Job
from fieldstation.store.embeddings import embedding_of
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import LEASE_S, MOST_DEATHS, Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import DETECTIONS, IMAGES, JOBS
from fieldstation.store.retention import ROWS
from tests.fakes import FakeClock
from tests.store.examples import DAWN, EMBEDDING, MINUTE, detection, image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jobs(log: LogStore, clock: FakeClock) -> Jobs:
    """The queue of an empty log."""
    return Jobs(lambda: log.database, clock.wall)


@pytest.fixture
def wish(log: LogStore) -> Callable[..., None]:
    """Makes the log hear events, which make jobs."""

    def hear(*numbers: int, **changes: Any) -> None:
        heard = [detection(n, started_at=DAWN + n * MINUTE, **changes) for n in numbers]
        log.record(heard, DAWN)
        with log.database.write() as connection:
            JobMaker(JobPolicy()).make(connection, heard, DAWN)

    return hear


def rows(log: LogStore, *columns: str, table: Any = JOBS) -> list[tuple[Any, ...]]:
    with log.database.read() as connection:
        query = select(*(table.c[name] for name in columns)).order_by(table.c.id)
        return [tuple(row) for row in connection.execute(query)]


def numbers(claimed: list[Job]) -> list[int]:
    return [int(job.event_id[-4:], 16) for job in claimed]


def test_a_claim_brings_what_is_painted(jobs: Jobs, wish: Callable[..., None]) -> None:
    """The event as the log knows it, with its embedding where it was sent."""
    wish(1, embedding=EMBEDDING)
    (job,) = jobs.claim("worker", 5)
    heard = detection(1)
    assert (job.event_id, job.station, job.timezone) == (heard.event_id, "garden", "Europe/Berlin")
    assert (job.scientific_name, job.common_name) == ("Parus major", "Great Tit")
    assert (job.probability, job.encoder_id, job.embedding) == (0.875, heard.encoder_id, EMBEDDING)
    assert jobs.claim("other", 5) == []


def test_a_wish_of_an_event_that_has_left_the_log_is_forgotten(
    log: LogStore, jobs: Jobs, wish: Callable[..., None]
) -> None:
    """It is in nobody's way, and no worker is taken for dead because of it."""
    wish(1, 2, 3, 4)
    gone = [detection(n).event_id for n in (1, 3, 4)]
    with log.database.write() as connection:
        connection.execute(delete(DETECTIONS).where(DETECTIONS.c.event_id.in_(gone)))
    assert numbers(jobs.claim("worker", 1)) == [2]
    assert jobs.claim("worker", 1) == []
    assert rows(log, "state", "n_deaths") == [("claimed", 1)]


def test_the_first_of_the_day_comes_first_then_the_newest(
    jobs: Jobs, wish: Callable[..., None]
) -> None:
    """A station that cannot keep up shows what sings now."""
    wish(1, 2, 3)
    wish(4, scientific_name="Cyanistes caeruleus")
    wish(5)
    assert [numbers(jobs.claim("worker", 2)) for _ in range(3)] == [[1, 4], [3, 5], [2]]


def test_a_finished_job_has_its_picture_once(
    log: LogStore, jobs: Jobs, wish: Callable[..., None]
) -> None:
    """Finished again, by whoever painted it too, changes nothing."""
    wish(1)
    (job,) = jobs.claim("worker", 1)
    assert jobs.finish(job, "worker", image(1)) is True
    assert jobs.finish(job, "other", image(1, sha256="cd" * 32)) is False
    assert rows(log, "state", "n_deaths", "worker") == [("done", 0, None)]
    assert rows(log, "sha256", "published_at", table=IMAGES) == [("ab" * 32, None)]
    assert jobs.claim("worker", 1) == []


def test_three_exceptions_park_it_with_the_reason(
    log: LogStore, jobs: Jobs, wish: Callable[..., None]
) -> None:
    """Between them others come first."""
    wish(1)
    for n in range(1, 4):
        (job,) = jobs.claim("worker", 1)
        assert jobs.fail(job, "worker", f"ValueError: {n}") is (n == 3)
    assert rows(log, "state", "n_failures", "n_deaths") == [("parked", 3, 0)]
    state = jobs.state()
    assert (state.n_parked, state.n_waiting, state.reason) == (1, 0, "ValueError: 3")


def test_what_can_never_be_painted_is_parked_at_once(jobs: Jobs, wish: Callable[..., None]) -> None:
    """No use in trying again."""
    wish(1)
    (job,) = jobs.claim("worker", 1)
    assert jobs.fail(job, "worker", "no such bird", for_good=True) is True
    assert jobs.state().n_parked == 1


def test_what_another_encoder_heard_is_parked_at_once(
    log: LogStore,
    jobs: Jobs,
    wish: Callable[..., None],
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Told once, with the reason; what is claimed, or painted by its species alone, stays."""
    wish(1, 2, 3, embedding=EMBEDDING)
    jobs.claim("slow", 1)
    wish(4, 5, embedding=EMBEDDING, encoder_id="new")
    wish(6, encoder_id="older")
    assert numbers(jobs.claim("worker", 5, "new")) == [4, 5, 6]
    assert jobs.claim("worker", 5, "new") == []
    assert Counter(rows(log, "state")) == {("claimed",): 4, ("parked",): 2}
    state = jobs.state()
    assert state.n_parked == 2
    assert state.reason.startswith("the embedding is not of encoder new")
    assert [m for m in caplog.messages if "parked" in m] == [
        f"jobs parked: 2; of each {state.reason}"
    ]
    clock.advance(LEASE_S + 1)
    assert len(jobs.claim("next", 5, "new")) == 1
    assert jobs.state().n_parked == 3


def test_a_lease_that_ended_lets_others_have_the_job_alone(
    jobs: Jobs, wish: Callable[..., None], clock: FakeClock
) -> None:
    """Two died in company: nobody knows whose fault it was; those that nobody died of go first."""
    wish(1, 2)
    assert len(jobs.claim("dead", 5)) == 2
    assert jobs.claim("worker", 5) == []
    clock.advance(LEASE_S + 1)
    wish(3, 4)
    assert [numbers(jobs.claim("worker", 5)) for _ in range(4)] == [[3, 4], [1], [2], []]


def test_twenty_deaths_alone_park_it(
    log: LogStore, jobs: Jobs, wish: Callable[..., None], clock: FakeClock
) -> None:
    """The first, in company perhaps, is forgiven."""
    wish(1)
    for _ in range(MOST_DEATHS):
        assert len(jobs.claim("worker", 1)) == 1
        assert jobs.take_over(["worker"]) == 1
    assert jobs.claim("worker", 1) == []
    assert rows(log, "state", "reason") == [("parked", "its worker died 21 times")]


def test_whoever_follows_a_dead_worker_takes_its_claims_up_at_once(
    jobs: Jobs, wish: Callable[..., None]
) -> None:
    """Another's claims are left to it."""
    wish(1)
    jobs.claim("first", 1)
    wish(2)
    jobs.claim("second", 1)
    assert jobs.take_over(["first", "nobody"]) == 1
    assert numbers(jobs.claim("first", 5)) == [1]


def test_what_is_given_back_counts_nothing(
    log: LogStore, jobs: Jobs, wish: Callable[..., None]
) -> None:
    """A worker that was told to stop blames nobody."""
    wish(1, 2)
    jobs.give_back(jobs.claim("worker", 5), "worker")
    assert rows(log, "state", "n_deaths", "worker") == [("queued", 0, None)] * 2
    assert len(jobs.claim("other", 5)) == 2


def test_who_lost_the_lease_cannot_fail_or_give_back_anothers_job(
    log: LogStore, jobs: Jobs, wish: Callable[..., None], clock: FakeClock
) -> None:
    """A worker that slept through its lease finds the job taken."""
    wish(1)
    (job,) = jobs.claim("slow", 1)
    clock.advance(LEASE_S + 1)
    jobs.claim("quick", 1)
    assert jobs.fail(job, "slow", "too late") is False
    jobs.give_back([job], "slow")
    assert rows(log, "state", "worker", "n_failures") == [("claimed", "quick", 0)]


def test_the_state_tells_length_and_pace(jobs: Jobs, wish: Callable[..., None]) -> None:
    """Of what was painted here; what came from elsewhere has no pace."""
    assert jobs.state().ms_per_image is None
    wish(1, 2, 3)
    first, second = jobs.claim("worker", 2)
    jobs.finish(first, "worker", image(1, paint_ms=300.0))
    jobs.finish(second, "worker", image(2, paint_ms=None))
    state = jobs.state()
    assert (state.n_queued, state.n_claimed, state.n_unpublished) == (1, 0, 2)
    assert (state.ms_per_image, state.provider) == (300.0, "CPUExecutionProvider")


def test_the_state_may_be_one_station_s(jobs: Jobs, wish: Callable[..., None]) -> None:
    """Whoever waits for its own pictures does not wait for the neighbour's."""
    wish(1)
    wish(2, station="pond")
    (job,) = jobs.claim("worker", 1)
    jobs.finish(job, "worker", image(2, station="pond"))
    assert (jobs.state("garden").n_waiting, jobs.state("garden").n_unpublished) == (1, 0)
    assert (jobs.state("pond").n_waiting, jobs.state("pond").n_unpublished) == (0, 1)


def test_what_ended_long_ago_is_forgotten(
    log: LogStore, jobs: Jobs, wish: Callable[..., None], clock: FakeClock
) -> None:
    """With its embedding; what still waits keeps both, however old it is."""
    wish(1, 2, embedding=EMBEDDING)
    (job,) = jobs.claim("worker", 1)
    jobs.finish(job, "worker", image(1))
    jobs.prune(clock.wall() - 1)
    assert len(rows(log, "event_id")) == 2
    jobs.prune(DAWN + 1)
    assert rows(log, "event_id", "state") == [(detection(2).event_id, "queued")]
    assert embedding_of(log.database, detection(1).event_id) is None
    assert embedding_of(log.database, detection(2).event_id) == EMBEDDING


def test_what_ended_goes_a_few_at_a_time(
    log: LogStore, jobs: Jobs, wish: Callable[..., None]
) -> None:
    """Each turn is a transaction, and after each one it may be enough for now."""
    wish(*range(ROWS + 5))
    with log.database.write() as connection:
        connection.execute(JOBS.update().values(state="done", ended_at=DAWN))
    turns: list[int] = []
    jobs.prune(DAWN + 1, lambda: bool(turns.append(len(rows(log, "id")))))
    assert turns == [5]
    jobs.prune(DAWN + 1, lambda: True)
    assert rows(log, "id") == []


CLAIMING_CHILD = """
import sys, time
from fieldstation.store.errors import StoreBusy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore

log = LogStore(sys.argv[1], timeout_s=30)
jobs = Jobs(lambda: log.database, lambda: time.time_ns() // 1000)
while claimed := jobs.claim(sys.argv[2], 3):
    print(*(job.event_id for job in claimed), flush=True)
"""


def test_two_workers_at_once_never_have_the_same_job(
    log: LogStore, log_url: str, wish: Callable[..., None]
) -> None:
    """Two processes claim as fast as they can: every job once, none left."""
    wish(*range(1, 121))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMING_CHILD, log_url, name],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for name in ("first", "second")
    ]
    said = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    claimed = Counter(word for words in said for word in words)
    assert set(claimed.values()) == {1}
    assert len(claimed) == 120
