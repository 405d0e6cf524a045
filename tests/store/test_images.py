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
    log.record([detection(1)], DAWN)
    assert record(log, 1) == [True]
    assert record(log, 1, sha256="cd" * 32, file="b.png") == [False]
    assert record(log, 1, seed=8) == [True]
    assert record(log, 1, generator_id="0" * 16) == [True]
    found = [picture.image for _, picture in images.unpublished(0, 9)]
    assert found == [image(1), image(1, seed=8), image(1, generator_id="0" * 16)]


def test_a_picture_whose_file_was_written_over_is_recorded_and_told_anew(
    log: LogStore, images: Images
) -> None:
    """The same bytes again are nothing new."""
    log.record([detection(1)], DAWN)
    record(log, 1)
    images.mark_published([number for number, _ in images.unpublished(0, 9)])
    with log.database.write() as connection:
        assert not record_image(connection, image(1), replaces=True)
    assert images.unpublished(0, 9) == []
    other = image(1, sha256="cd" * 32)
    with log.database.write() as connection:
        assert record_image(connection, other, replaces=True)
    assert [picture.image for _, picture in images.unpublished(0, 9)] == [other]


def test_what_is_unpublished_comes_in_order_with_its_event(log: LogStore, images: Images) -> None:
    """A picture of an event that the log has not is nobody's to tell."""
    log.record([detection(1), detection(2)], DAWN)
    record(log, 1, 2, 3)
    (first, heard), (second, other) = images.unpublished(0, 9)
    assert heard.image == image(1)
    assert (heard.common_name, heard.probability, heard.started_at) == ("Great Tit", 0.875, DAWN)
    assert (heard.timezone, other.image) == ("Europe/Berlin", image(2))
    assert images.unpublished(first, 9) == [(second, other)]
    images.mark_published([first])
    assert images.unpublished(0, 9) == [(second, other)]


def test_a_picture_whose_file_is_gone_is_not_published_and_may_come_again(
    log: LogStore, images: Images
) -> None:
    """Painted again it is there, and told again."""
    log.record([detection(1)], DAWN)
    record(log, 1)
    ((number, _),) = images.unpublished(0, 9)
    images.mark_published([number])
    images.mark_removed([number])
    assert images.unpublished(0, 9) == []
    assert record(log, 1, file="again.png") == [True]
    ((again, picture),) = images.unpublished(0, 9)
    assert (again, picture.image.file) == (number, "again.png")
