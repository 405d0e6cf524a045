"""A logger that takes the pictures of stations that paint, between their events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import Connection
from fieldstation.mqtt.logger import Log, Logger
from fieldstation.records import Message, Picture
from tests.mosquitto import needs_mosquitto
from tests.mqtt import fakes
from tests.mqtt.conftest import Connect
from tests.mqtt.fakes import OWN, TURN_S, Listener, running, until
from tests.mqtt.test_logger import receipts, tell, telling
from tests.mqtt.wire_examples import EXAMPLES, ONE_PIXEL, PICTURE

pytestmark = needs_mosquitto

IMAGE = EXAMPLES["image"]


class Intake:
    """Takes pictures, or says why not."""

    def __init__(self) -> None:
        self.taken: list[tuple[Picture, bytes]] = []
        self.reason = ""
        self.fault: Exception | None = None

    def take(self, picture: Picture, png: bytes, received_at: int) -> str:
        if self.fault:
            raise self.fault
        if not self.reason:
            self.taken.append((picture, png))
        return self.reason


@contextmanager
def taking(
    connect: Connect, log: fakes.Log, intake: Intake | None
) -> Iterator[tuple[Logger, Connection, Listener]]:
    """Run a logger that has heard an event; return it, who tells, and what is told back."""
    options: dict[str, Any] = {"backoff": Backoff(0.02, 0.05), "turn_s": TURN_S}
    logger = Logger(connect(), cast(Log, log), OWN, pictures=intake, **options)
    with running(logger), telling(connect) as (teller, seen):
        until(lambda: logger.state().connection.up)
        until(lambda: receipts(seen) or tell(teller, 9))
        seen.deliveries.clear()
        yield logger, teller, seen


def confirmed(seen: Listener) -> set[str]:
    """Return the ids of all receipts that were heard."""
    return {event_id for receipt in receipts(seen) for event_id in receipt.ids}


def altered(**changes: object) -> Message:
    return Message(IMAGE.topic, json.dumps(json.loads(IMAGE.payload) | changes).encode())


def test_a_picture_is_taken_as_it_was_painted(connect: Connect) -> None:
    """With what is told of its event; no receipt is given for it."""
    log, intake = fakes.Log(), Intake()
    with taking(connect, log, intake) as (_, teller, seen):
        teller.publish(IMAGE)
        tell(teller, 1)
        until(lambda: fakes.detection(1).event_id in confirmed(seen))
    assert intake.taken == [(PICTURE, ONE_PIXEL)]
    assert confirmed(seen) <= {fakes.detection(1).event_id, fakes.detection(9).event_id}


def test_a_picture_that_does_not_fit_is_set_aside_and_its_event_is_not_refused(
    connect: Connect,
) -> None:
    """A receipt that refused the event's id would end an event that is still on its way."""
    log, intake = fakes.Log(), Intake()
    intake.reason = "png: it is no PNG"
    with taking(connect, log, intake) as (_, teller, seen):
        teller.publish(altered(sha256="0" * 64))
        teller.publish(IMAGE)
        until(lambda: len(log.quarantined) == 2)
        tell(teller, 1)
        until(lambda: fakes.detection(1).event_id in confirmed(seen))
    assert "is not the one of sha256" in log.quarantined[0].reason
    assert log.quarantined[1].reason == "png: it is no PNG"
    assert all(not receipt.refused for receipt in receipts(seen))


def test_a_log_that_is_away_keeps_the_picture_at_the_broker(connect: Connect) -> None:
    """Like events: it is acknowledged when it is kept."""
    log, intake = fakes.Log(), Intake()
    with taking(connect, log, intake) as (logger, teller, _):
        intake.fault = OSError("locked")
        teller.publish(IMAGE)
        until(lambda: logger.state().fault == "locked")
        intake.fault = None
        until(lambda: intake.taken)


def test_a_station_does_not_ask_for_pictures(connect: Connect) -> None:
    """Its own worker has written them into the log before it told them."""
    log = fakes.Log()
    with taking(connect, log, None) as (_, teller, _):
        teller.publish(IMAGE)
        tell(teller, 1)
        until(lambda: fakes.detection(1).event_id in log.rows)
    assert log.quarantined == []
