"""Publishing pictures: a real broker that is killed, refuses and comes back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import (
    Access,
    BrokerError,
    BrokerUrl,
    Connection,
    Session,
    Subscription,
)
from fieldstation.mqtt.pictures import PicturePublisher
from fieldstation.records import Image, Picture
from tests.mosquitto import Mosquitto, needs_mosquitto
from tests.mqtt.conftest import QUICK, Connect
from tests.mqtt.fakes import FakeConnection, Listener, listening, running, until
from tests.mqtt.wire_examples import PICTURE

pytestmark = needs_mosquitto


def picture(number: int, png: bytes = b"") -> Picture:
    """Return the `number`th picture, of a PNG that `files` gives."""
    png = png or b"png %d" % number
    image = replace(
        PICTURE.image,
        seed=number,
        file=f"{number}.png",
        n_bytes=len(png),
        sha256=hashlib.sha256(png).hexdigest(),
    )
    return replace(PICTURE, image=image)


class Pictures:
    """Pictures in memory; can be away."""

    def __init__(self, *numbers: int) -> None:
        self.waiting = {number: picture(number) for number in numbers}
        self.published: list[int] = []
        self.removed: list[int] = []
        self.fault: Exception | None = None

    def unpublished(self, after: int, limit: int) -> list[tuple[int, Picture]]:
        if self.fault:
            raise self.fault
        return [(n, p) for n, p in sorted(self.waiting.items()) if n > after][:limit]

    def mark_published(self, ids: Sequence[int]) -> None:
        if self.fault:
            raise self.fault
        for number in ids:
            self.waiting.pop(number, None)
            self.published.append(number)

    def mark_removed(self, ids: Sequence[int]) -> None:
        for number in ids:
            self.waiting.pop(number)
            self.removed.append(number)


def files(image: Image) -> bytes | None:
    return b"png %d" % image.seed


def one_is(number: int, content: bytes | None) -> Callable[[Image], bytes | None]:
    """Return what reads files of which one is not what it should be."""
    return lambda image: content if image.seed == number else files(image)


def publisher(connect: Callable[[], Any], pictures: Pictures, **changes: Any) -> PicturePublisher:
    options: dict[str, Any] = {
        "read": files,
        "display": lambda png, _: b"shown " + png,
        "away": (OSError,),
        "again_s": 0.3,
        "turn_s": 0.02,
    }
    return PicturePublisher(connect, "worker-1", pictures, **{**options, **changes})


@contextmanager
def subscriber(connect: Connect) -> Iterator[Listener]:
    wanted = (Subscription("fieldstation/+/image"), Subscription("fieldstation/+/image/png"))
    with listening(connect(), Session("reader", wanted)) as heard:
        yield heard


def seeds(heard: Listener) -> list[int]:
    return [
        messages.read_image(d.topic, d.payload)[0].image.seed
        for d in heard.deliveries
        if d.topic.endswith("/image")
    ]


def test_pictures_are_told_in_order_and_the_newest_is_kept(connect: Connect) -> None:
    """For loggers, and for whoever comes later and wants to see one."""
    pictures = Pictures(*range(1, 8))
    with subscriber(connect) as heard, running(publisher(connect, pictures)):
        until(lambda: pictures.published == list(range(1, 8)))
        until(lambda: seeds(heard) == list(range(1, 8)))
        pictures.waiting[8] = picture(8)
        until(lambda: seeds(heard)[-1] == 8)
    with subscriber(connect) as late:
        until(lambda: late.deliveries)
        (kept,) = late.deliveries
    assert (kept.retained, kept.payload) == (True, b"shown png 8")


def test_a_picture_is_published_when_the_broker_has_both_messages() -> None:
    """One acknowledged of two is none; after a loss both go again."""
    connection, pictures = FakeConnection(), Pictures(1)
    with running(publisher(lambda: connection, pictures)):
        connection.connect()
        until(lambda: len(connection.published) == 2)
        assert pictures.published == []
        connection.up = False
        connection.connect()
        until(lambda: len(connection.published) == 4)
        connection.acknowledge_all()
        until(lambda: pictures.published == [1])


def test_nothing_goes_out_before_it_was_told_that_it_is_connected() -> None:
    """It is told a moment later, and begins again then: each would go twice."""
    connection, pictures = FakeConnection(), Pictures(1)
    with running(publisher(lambda: connection, pictures)) as (stage,):
        connection.come_up()
        n = stage.n_beats
        until(lambda: stage.n_beats >= n + 2)
        assert connection.published == []
        connection.tell_up()
        until(lambda: len(connection.published) == 2)


def test_a_refused_picture_stays_and_is_tried_again() -> None:
    """A broker whose access list is mended gets it then."""
    connection, pictures = FakeConnection(), Pictures(1)
    with running(publisher(lambda: connection, pictures)):
        connection.connect()
        until(lambda: len(connection.published) == 2)
        connection.acknowledge_all("Not authorized")
        until(lambda: len(connection.published) == 4)
        connection.acknowledge_all()
        until(lambda: pictures.published == [1])
    assert connection.reports == ["the broker refuses our pictures: Not authorized"]


def test_a_broker_that_was_killed_gets_what_it_may_have_forgotten(
    broker: Mosquitto, connect: Connect
) -> None:
    """Nothing is published that it has not acknowledged."""
    pictures = Pictures(*range(1, 21))
    with running(publisher(connect, pictures)):
        until(lambda: pictures.published)
        broker.kill()
        pictures.waiting[21] = picture(21)
        broker.start()
        until(lambda: not pictures.waiting)
    assert set(pictures.published) == set(range(1, 22))


def test_a_file_that_is_gone_is_passed_over(connect: Connect) -> None:
    """It is noted, and the others go."""
    pictures = Pictures(1, 2, 3)
    with running(publisher(connect, pictures, read=one_is(2, None))):
        until(lambda: pictures.published == [1, 3])
    assert pictures.removed == [2]


def test_a_picture_too_large_for_the_wire_holds_up_nobody(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A generator of larger pictures than messages can bring: said, and left in its folder."""
    pictures = Pictures(1, 2)
    large = bytes(messages.MAX_PNG + 1)
    with running(publisher(connect, pictures, read=one_is(1, large))):
        until(lambda: not pictures.waiting)
    assert any("1.png is not published" in message for message in caplog.messages)


def test_a_log_that_is_away_is_waited_for(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once when it begins, once when it ends."""
    caplog.set_level(logging.INFO, "fieldstation.mqtt.pictures")
    pictures = Pictures(1)
    pictures.fault = OSError("locked")
    with running(publisher(connect, pictures)):
        until(lambda: caplog.messages)
        pictures.fault = None
        until(lambda: pictures.published == [1])
    assert [m for m in caplog.messages if "published" in m] == [
        "pictures are not published: locked; trying again",
        "pictures are published again",
    ]


def test_a_broker_whose_files_are_not_there_yet_is_waited_for(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """The station that brings the broker may start after the worker."""
    pictures, there = Pictures(1), tmp_path / "there"

    def connect() -> Connection:
        if not there.exists():
            there.touch()
            raise BrokerError("start the station")
        return Connection(Access(BrokerUrl.parse(broker.url)), QUICK)

    with running(publisher(connect, pictures)):
        until(lambda: pictures.published == [1])
