"""Pictures that others painted: checked against the log, kept once; on both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fieldstation.clock import parse_instant
from fieldstation.gallery import Gallery, GalleryError, picture_name
from fieldstation.records import Picture
from fieldstation.store.images import Images, record_image
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import IMAGES
from fieldstation.store.received import MOST_PER_EVENT, ReceivedPictures
from tests.store.examples import DAWN, detection, image

LATER = DAWN + 1_000_000


def picture(number: int = 1, **changes: Any) -> Picture:
    """Return a picture as a message brings it."""
    painted = image(number, file=None, paint_ms=None, provider=None, **changes)
    return Picture(painted, "Parus major", "Great Tit", 0.875, DAWN, "Europe/Berlin")


def name_of(received: Picture) -> str:
    i = received.image
    return picture_name(i.event_id, i.generator_id, i.seed, received.started_at, received.timezone)


def size_of(png: bytes) -> tuple[int, int]:
    if png == b"bomb":
        raise ValueError("it is 100000 × 100000 pixels")
    return 64, 64


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "images")


@pytest.fixture
def received(log: LogStore, gallery: Gallery) -> ReceivedPictures:
    return ReceivedPictures(lambda: log.database, size_of, name_of, gallery.write, gallery.has)


def rows(log: LogStore) -> list[Any]:
    with log.database.read() as connection:
        return list(connection.execute(select(IMAGES).order_by(IMAGES.c.id)).all())


def test_a_picture_is_kept_once(log: LogStore, received: ReceivedPictures, tmp_path: Path) -> None:
    """File and row; it came from the wire, so it is not told again; a repetition writes nothing."""
    log.record([detection(1)], DAWN)
    assert received.take(picture(), b"png", LATER) == ""
    assert received.take(picture(), b"another", LATER) == ""
    (row,) = rows(log)
    assert (tmp_path / "images" / row.file).read_bytes() == b"png"
    assert (row.made_at, row.published_at, row.paint_ms) == (LATER, LATER, None)
    assert Images(lambda: log.database, lambda: 0).unpublished(0, 9) == []


def test_a_picture_that_another_machine_painted_into_the_log_is_kept_here_too(
    log: LogStore, received: ReceivedPictures, gallery: Gallery
) -> None:
    """A machine with a GPU has the file; whoever asks here shall find it. The row stays its."""
    log.record([detection(1)], DAWN)
    painted = image(1, file=name_of(picture()))
    with log.database.write() as connection:
        record_image(connection, painted)
    assert received.take(picture(), b"png", LATER) == ""
    assert gallery.has(name_of(picture()))
    (row,) = rows(log)
    assert (row.made_at, row.paint_ms, row.published_at) == (painted.made_at, 400.0, None)
    assert "png: " in received.take(picture(seed=1), b"bomb", LATER)


def test_a_picture_may_come_before_its_event(log: LogStore, received: ReceivedPictures) -> None:
    """The event is still on its way."""
    assert received.take(picture(), b"png", LATER) == ""
    assert len(rows(log)) == 1


def test_whose_picture_has_come_needs_no_painting(
    log: LogStore, received: ReceivedPictures
) -> None:
    """A hub does not paint what the station has painted."""
    with log.database.write() as connection:
        JobMaker(JobPolicy()).make(connection, [detection(1)], DAWN)
    received.take(picture(), b"png", LATER)
    assert Jobs(lambda: log.database, lambda: LATER).state().n_waiting == 0


@pytest.mark.parametrize(
    ("changes", "png", "reason"),
    [
        ({}, b"bomb", "png: it is 100000 × 100000 pixels"),
        ({"width": 32}, b"png", "png is 64 × 64, told as 32 × 64"),
        ({"station": "pond"}, b"png", "is of station garden, the picture of pond"),
    ],
)
def test_what_does_not_fit_leaves_no_file(
    log: LogStore,
    received: ReceivedPictures,
    tmp_path: Path,
    changes: dict[str, Any],
    png: bytes,
    reason: str,
) -> None:
    """A station cannot give its pictures to another's events."""
    log.record([detection(1)], DAWN)
    assert reason in received.take(picture(**changes), png, LATER)
    assert rows(log) == []
    assert list(tmp_path.glob("images/*")) == []


def test_an_instant_without_a_date_is_refused(log: LogStore, received: ReceivedPictures) -> None:
    """In Berlin the year 10000 has begun."""
    last = parse_instant("9999-12-31T23:59:59Z")
    assert "have no date" in received.take(replace(picture(), started_at=last), b"png", LATER)
    assert rows(log) == []


def test_an_event_takes_so_many_pictures(log: LogStore, received: ReceivedPictures) -> None:
    """Whoever sends seed after seed fills no disk."""
    for seed in range(MOST_PER_EVENT):
        assert received.take(picture(seed=seed), b"png", LATER) == ""
    assert "16 pictures already" in received.take(picture(seed=99), b"png", LATER)
    assert received.take(picture(2), b"png", LATER) == ""


def test_a_full_folder_holds_up_no_event(log: LogStore) -> None:
    """The picture is refused with the reason; it can be painted again."""

    def full(name: str, png: bytes) -> None:
        raise GalleryError("no space left: make room")

    received = ReceivedPictures(lambda: log.database, size_of, name_of, full, lambda _: False)
    assert received.take(picture(), b"png", LATER) == "not kept: no space left: make room"
    assert rows(log) == []


def test_a_removed_picture_may_come_back(log: LogStore, received: ReceivedPictures) -> None:
    """Retention took its file; sent again it is kept again."""
    received.take(picture(), b"png", LATER)
    Images(lambda: log.database, lambda: 0).mark_removed([rows(log)[0].id])
    assert received.take(picture(), b"png", LATER + 5) == ""
    (row,) = rows(log)
    assert (row.file is not None, row.published_at) == (True, LATER + 5)


def test_a_folder_that_cannot_be_read_keeps_no_picture_and_ends_nothing(
    log: LogStore, tmp_path: Path
) -> None:
    """A card that fails: events do not wait for it."""
    unreadable = Gallery(tmp_path / ("x" * 300))  # the disk gives an error of its own
    received = ReceivedPictures(
        lambda: log.database, size_of, name_of, unreadable.write, unreadable.has
    )
    log.record([detection(1)], DAWN)
    with log.database.write() as connection:
        record_image(connection, image(1, file=name_of(picture())))
    assert received.take(picture(), b"png", LATER).startswith("not kept: pictures in")
