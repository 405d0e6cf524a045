"""Which new detections get a job, and what gives way; on SQLite and on PostgreSQL."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from fieldstation.records import Detection, Hearing
from fieldstation.store.embeddings import embedding_of
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.job_maker import (
    AGAIN,
    FIRST,
    LATER,
    MOST_SAID,
    JobMaker,
    JobPolicy,
    job_values,
)
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore, Outcome
from fieldstation.store.log_tables import JOBS
from tests.store.conftest import full_disk
from tests.store.examples import DAWN, EMBEDDING, MINUTE, detection, interval

HOUR = 60 * MINUTE


def logged(url: str, *detections: Detection, **policy: Any) -> list[Any]:
    """Record detections under a policy; return the rows of the jobs, oldest first."""
    log = LogStore(url, maker=JobMaker(JobPolicy(**policy)))
    log.record(detections, DAWN)
    with log.database.read() as connection:
        rows = connection.execute(select(JOBS).order_by(JOBS.c.id)).all()
    log.close()
    return list(rows)


def numbers(rows: list[Any], state: str = "queued") -> list[int]:
    """Return the numbers of the events whose jobs are in a state."""
    return [int(row.event_id[-4:], 16) for row in rows if row.state == state]


def test_a_new_row_makes_its_job_and_a_repetition_none(log_url: str) -> None:
    """However often it is told, in one batch or later."""
    (row,) = logged(log_url, detection(1), detection(1))
    assert (row.state, row.priority, row.local_date) == ("queued", FIRST, "2026-05-01")
    assert numbers(logged(log_url, detection(1), detection(2))) == [1, 2]


def test_without_a_policy_there_are_no_jobs(log: LogStore) -> None:
    """A log that paints nothing is as it was; embeddings that stations send are kept."""
    log.record([detection(1, embedding=EMBEDDING), detection(2)], DAWN)
    assert Jobs(lambda: log.database, lambda: DAWN).state().n_waiting == 0
    assert embedding_of(log.database, detection(1).event_id) == EMBEDDING
    assert embedding_of(log.database, detection(2).event_id) is None


def test_row_and_job_are_one_transaction(tmp_path: Any) -> None:
    """A disk that is full at the job leaves no row behind that would never have one."""
    log = LogStore(str(tmp_path / "log.db"), maker=JobMaker(JobPolicy()))
    log.record_coverage("garden", "k1", [interval(state=Hearing.LOST)])
    heard = [detection(n, embedding=EMBEDDING) for n in range(40)]
    with full_disk(90_000), pytest.raises(StoreUnavailable):
        log.record(heard, DAWN)
    assert log.record(heard, DAWN) == [Outcome.NEW] * 40
    assert Jobs(lambda: log.database, lambda: DAWN).state().n_queued == 40
    log.close()


def test_the_first_of_a_species_day_has_priority(log_url: str) -> None:
    """By the station's own date, for each station and species; in the next batch it is known."""
    evening = DAWN + 15 * HOUR + 47 * MINUTE  # 21:59 in Berlin
    heard = [
        detection(1, started_at=evening + HOUR),
        detection(2, started_at=evening),
        detection(3, started_at=evening + 3 * HOUR),
        detection(4, started_at=evening, station="pond"),
        detection(5, started_at=evening, scientific_name="Turdus merula"),
    ]
    rows = logged(log_url, *heard)
    assert {n: row.priority for n, row in zip(numbers(rows), rows, strict=True)} == {
        2: FIRST,
        1: LATER,
        3: FIRST,
        4: FIRST,
        5: FIRST,
    }
    assert logged(log_url, detection(6, started_at=evening))[-1].priority == LATER


def test_daily_paints_the_first_that_is_good_enough(log_url: str) -> None:
    """A faint one before it does not take its place."""
    heard = [
        detection(1, probability=0.5),
        detection(2, started_at=DAWN + MINUTE, probability=0.9),
        detection(3, started_at=DAWN + 2 * MINUTE, probability=0.99),
    ]
    assert numbers(logged(log_url, *heard, which="daily", min_probability=0.8)) == [2]
    assert numbers(logged(log_url, detection(4), which="daily", min_probability=0.8)) == [2]


def test_hourly_paints_so_many_of_each_stations_hour(log_url: str) -> None:
    """By the time of the birds: replaying a night at once chooses as hearing it did."""
    start = DAWN // HOUR * HOUR
    heard = [detection(n, started_at=start + n * 10 * MINUTE) for n in range(1, 9)]
    pond = detection(9, started_at=start, station="pond")
    rows = logged(log_url, *heard, pond, which="hourly", per_hour=2)
    assert sorted(numbers(rows)) == [1, 2, 6, 7, 9]
    later = detection(10, started_at=start + MINUTE), detection(11, started_at=start + 2 * HOUR)
    assert sorted(numbers(logged(log_url, *later, which="hourly", per_hour=2))) == [
        *(1, 2, 6, 7, 9, 11)
    ]


def test_the_oldest_of_the_lowest_priority_give_way_and_are_counted(log_url: str) -> None:
    """A species' first stays before the hundredth sparrow; what was asked for again goes first."""
    log = LogStore(log_url)
    with log.database.write() as connection:
        connection.execute(JOBS.insert(), job_values(detection(99), AGAIN, DAWN))
    log.close()
    heard = [detection(n, started_at=DAWN + n) for n in range(1, 6)]
    rows = logged(log_url, *heard, limit=3)
    assert numbers(rows) == [3, 4, 5]
    tit = detection(6, started_at=DAWN + 9, scientific_name="Cyanistes caeruleus")
    rows = logged(log_url, tit, detection(7, started_at=DAWN + 10), limit=3)
    assert numbers(rows) == [5, 6, 7]
    assert numbers(rows, "dropped") == [99, 1, 2, 3, 4]
    assert {row.reason for row in rows if row.state == "dropped"} == {
        "gave way to others: the queue was full"
    }
    log = LogStore(log_url)
    assert Jobs(lambda: log.database, lambda: DAWN).state().n_dropped == 5
    log.close()


def test_a_claimed_job_does_not_give_way(log_url: str) -> None:
    """A worker is at it."""
    logged(log_url, detection(1))
    log = LogStore(log_url)
    assert len(Jobs(lambda: log.database, lambda: DAWN).claim("worker", 1)) == 1
    log.close()
    rows = logged(log_url, *(detection(n) for n in range(2, 6)), limit=2)
    assert (numbers(rows, "claimed"), numbers(rows)) == ([1], [4, 5])


def test_what_cannot_be_painted_makes_no_job_and_is_said_once(
    log_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A species that the bundle does not paint; an embedding of another encoder."""
    caplog.set_level(logging.INFO)
    heard = [
        detection(1, scientific_name="Turdus merula", common_name="Blackbird"),
        detection(2, scientific_name="Turdus merula", common_name="Blackbird"),
        detection(3, embedding=EMBEDDING, encoder_id="other"),
        detection(4, encoder_id="other"),
        detection(5, embedding=EMBEDDING, encoder_id="ours"),
    ]
    rows = logged(log_url, *heard, paints=frozenset({"Parus major"}), encoder_id="ours")
    assert numbers(rows) == [4, 5]
    assert caplog.messages == [
        "no pictures of Blackbird (Turdus merula): the bundle paints none",
        "no pictures of what encoder other names (garden): the generator was made for ours",
    ]


def test_whoever_makes_up_names_does_not_fill_the_journal(
    log_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A station of a hub may tell a new species with every message."""
    caplog.set_level(logging.INFO)
    strange = [detection(n, scientific_name=f"Avis {n}") for n in range(1, MOST_SAID + 50)]
    logged(log_url, *strange, paints=frozenset({"Parus major"}))
    assert len(caplog.messages) == MOST_SAID


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), max_size=8), max_size=6
    ),
    limit=st.integers(1, 5),
)
def test_however_it_is_told_an_event_has_at_most_one_job_and_the_queue_its_bound(
    fresh: Any, batches: list[list[tuple[int, int]]], limit: int
) -> None:
    """Every new event has one, queued or dropped; never more wait than may."""
    with fresh("log.db") as path:
        log = LogStore(str(path), maker=JobMaker(JobPolicy(limit=limit)))
        told = set()
        for batch in batches:
            log.record([detection(n, started_at=DAWN + day * 24 * HOUR) for n, day in batch], DAWN)
            told |= {number for number, _ in batch}
            state = Jobs(lambda: log.database, lambda: DAWN).state()
            assert state.n_queued == min(limit, len(told))
            assert state.n_queued + state.n_dropped == len(told)
        log.close()
