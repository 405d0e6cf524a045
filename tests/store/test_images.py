"""The log's pictures; on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from fieldstation.store.images import Images, record_image
from fieldstation.store.log_db import LogStore
from tests.fakes import FakeClock
from tests.store.examples import DAWN, detection, image


@pytest.fixture
def images(log: LogStore, clock: FakeClock) -> Images:
    """The pictures of an empty log."""
    return Images(lambda: log.database, clock.wall)


def record(log: LogStore, *numbers: int, **changes: object) -> list[bool]:
    with log.database.write() as connection:
        return [record_image(connection, image(n, **changes)) for n in numbers]


def test_a_picture_is_recorded_once(log: LogStore, images: Images) -> None:
    """Another seed or generator makes another; the same again, whatever it holds, none."""
    assert record(log, 1) == [True]
    assert record(log, 1, sha256="cd" * 32, file="b.png") == [False]
    assert record(log, 1, seed=8) == [True]
    assert record(log, 1, generator_id="0" * 16) == [True]
    assert [t.image.file for t in images.unpublished(0, 9)] == ["2026-05-01/a.png"] * 3


def test_what_is_unpublished_comes_in_order_with_its_event(log: LogStore, images: Images) -> None:
    """Where the log has not that event, its names are empty."""
    log.record([detection(1)], DAWN)
    record(log, 1, 2)
    heard, unheard = images.unpublished(0, 9)
    assert heard.image == image(1)
    assert (heard.common_name, heard.probability, heard.started_at) == ("Great Tit", 0.875, DAWN)
    assert (heard.timezone, unheard.timezone) == ("Europe/Berlin", "UTC")
    assert (unheard.common_name, unheard.image.event_id) == ("", image(2).event_id)
    assert images.unpublished(heard.id, 9) == [unheard]
    images.mark_published([heard.id])
    assert images.unpublished(0, 9) == [unheard]


def test_a_picture_whose_file_is_gone_is_not_published_and_may_come_again(
    log: LogStore, images: Images
) -> None:
    """Painted again it is there, and told again."""
    record(log, 1)
    (told,) = images.unpublished(0, 9)
    images.mark_published([told.id])
    images.mark_removed([told.id])
    assert images.unpublished(0, 9) == []
    assert record(log, 1, file="again.png") == [True]
    (again,) = images.unpublished(0, 9)
    assert (again.id, again.image.file) == (told.id, "again.png")
