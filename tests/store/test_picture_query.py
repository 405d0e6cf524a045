"""What people ask of pictures, and which events are queued again; on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from fieldstation.records import Picture
from fieldstation.store.images import Images, record_image
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import JOBS
from fieldstation.store.picture_query import STATES, ask_again, pictures
from fieldstation.store.query import Filter
from tests.fakes import FakeClock
from tests.store.examples import DAWN, MINUTE, detection, image

PRESENT, FORMER = "b7e1d2c3a4f50617", "0123456789abcdef"
ALL = Filter()


@pytest.fixture
def full(log: LogStore, clock: FakeClock) -> LogStore:
    """A log with 1 painted, 2 parked, 3 dropped, 4 removed, 5 waiting, 6 never to be painted."""
    heard = [detection(n, started_at=DAWN + n * MINUTE) for n in range(1, 7)]
    log.record(heard, DAWN)
    with log.database.write() as connection:
        JobMaker(JobPolicy()).make(connection, heard[:5], DAWN)
    jobs = Jobs(lambda: log.database, clock.wall)
    claimed = {int(job.event_id[-2:], 16): job for job in jobs.claim("worker", 9)}
    for number in (1, 4):
        picture = image(number, generator_id=FORMER, file=f"{number}.png")
        jobs.finish(claimed[number], "worker", picture)
    jobs.fail(claimed[2], "worker", "no such bird", for_good=True)
    jobs.give_back([claimed[5]], "worker")
    with log.database.write() as connection:
        connection.execute(
            JOBS.update().where(JOBS.c.id == claimed[3].id).values(state="dropped", worker=None)
        )
    images = Images(lambda: log.database, clock.wall)
    gone = next(n for n, picture in images.unpublished(0, 9) if picture.image.file == "4.png")
    images.mark_removed([gone])
    return log


def listed(log: LogStore, **conditions: Any) -> list[tuple[int, str]]:
    states = conditions.pop("states", STATES)
    found = pictures(log, Filter(**conditions), states)
    return [(int(row.detection.event_id[-2:], 16), row.state) for row in found]


def test_what_is_not_painted_comes_first_each_newest_first(full: LogStore) -> None:
    """Every event that was to have a picture, and what became of it."""
    assert listed(full) == [
        (5, "queued"),
        (3, "dropped"),
        (2, "parked"),
        (4, "removed"),
        (1, "painted"),
    ]
    (parked,) = pictures(full, ALL, ["parked"])
    assert parked.reason == "no such bird"
    (painted,) = pictures(full, ALL, ["painted"])
    assert painted.image == image(1, generator_id=FORMER, file="1.png")


def test_conditions_are_those_of_detections(full: LogStore) -> None:
    """And a limit holds over both lists."""
    assert listed(full, since=DAWN + 4 * MINUTE) == [(5, "queued"), (4, "removed")]
    assert listed(full, species="wren") == []
    assert [n for n, _ in listed(full, limit=4)] == [5, 3, 2, 4]
    assert listed(full, limit=1) == [(5, "queued")]


def test_a_picture_is_found_by_what_its_event_is(log: LogStore) -> None:
    """By species, station and time; of several of an event, the newest comes first."""
    for number in range(1, 5):
        heard = detection(number, started_at=DAWN + number * MINUTE)
        bird = ("Parus major", "Great Tit") if number % 2 else ("Turdus merula", "Blackbird")
        log.record([replace(heard, scientific_name=bird[0], common_name=bird[1])], DAWN)
        with log.database.write() as connection:
            record_image(connection, image(number))
            record_image(connection, image(number, seed=8, made_at=DAWN + MINUTE))
    assert [n for n, _ in listed(log, species="tit", limit=3)] == [3, 3, 1]
    assert [n for n, _ in listed(log, species="b", until=DAWN + 4 * MINUTE, limit=9)] == [2, 2]
    assert [n for n, _ in listed(log, station="pond", limit=9)] == []
    (newest, _) = pictures(log, Filter(species="parus", limit=2), ["painted"])
    assert newest.image is not None
    assert newest.image.seed == 8


def test_a_picture_that_came_before_its_event_is_found_with_it(log: LogStore) -> None:
    """A hub may hear of the picture first."""
    early = Picture(image(1), "Parus major", "Great Tit", 0.875, DAWN, "Europe/Berlin")
    with log.database.write() as connection:
        record_image(connection, image(1), told=early)
    assert listed(log, limit=5) == []
    log.record([detection(1)], DAWN)
    assert listed(log, species="tit", limit=5) == [(1, "painted")]


def again(log: LogStore, states: Any = STATES, generator: str = PRESENT, **more: Any) -> Any:
    options = {"room_for": 100, "now": DAWN, **more}
    wanted = options.pop("wanted", ALL)
    return ask_again(log, wanted, states, generator, **options)


def queued(log: LogStore) -> set[int]:
    return {n for n, _ in listed(log, states=["queued"])}


def test_a_better_generator_paints_everything_that_was_ever_to_be_painted(full: LogStore) -> None:
    """Not what waits already, nor what was never wanted."""
    assert again(full) == (4, 0)
    assert queued(full) == {1, 2, 3, 4, 5}
    assert again(full) == (0, 0)


def test_what_the_present_generator_has_painted_is_left_out(full: LogStore) -> None:
    """Unless its file was removed."""
    assert again(full, generator=FORMER) == (3, 0)
    assert queued(full) == {2, 3, 4, 5}


def test_only_the_parked_may_be_tried_again(full: LogStore, clock: FakeClock) -> None:
    """With no failure against them."""
    assert again(full, ["parked"]) == (1, 0)
    assert queued(full) == {2, 5}
    with full.database.read() as connection:
        (row,) = connection.execute(select(JOBS).where(JOBS.c.event_id == detection(2).event_id))
    assert (row.n_failures, row.n_deaths, row.reason, row.priority) == (0, 0, None, 0)


def test_the_queue_s_bound_holds_for_what_is_asked_again(full: LogStore) -> None:
    """The newest first, and how many are left over is told; nothing new gives way to it."""
    assert again(full, room_for=3) == (2, 2)
    assert queued(full) == {3, 4, 5}
    assert again(full, room_for=3) == (0, 2)


def test_a_wish_for_at_most_so_many_leaves_none_over(full: LogStore) -> None:
    """What is left is what the queue had no room for."""
    assert again(full, wanted=Filter(limit=2)) == (2, 0)
    assert again(full, wanted=Filter(limit=2), room_for=4) == (1, 1)


def test_an_event_that_is_named_is_painted_whatever_it_had(full: LogStore) -> None:
    """Also one that the policy had passed over, and one that is painted."""
    named = [detection(n).event_id for n in (1, 6, 99)]
    assert again(full, generator=FORMER, event_ids=named) == (2, 0)
    assert queued(full) == {1, 5, 6}


def test_a_picture_of_an_unknown_event_is_not_listed(log: LogStore) -> None:
    """There is nothing to tell of it."""
    with log.database.write() as connection:
        record_image(connection, image(1))
    assert listed(log) == []
