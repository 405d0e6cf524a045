"""Outbox -> publisher -> a real broker -> logger -> log: every event once, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import (
    Access,
    BrokerUrl,
    Connection,
    Session,
    Subscription,
    Ticket,
)
from fieldstation.mqtt.logger import Log, Logger
from fieldstation.mqtt.messages import Topics
from fieldstation.mqtt.publisher import SOON_S, Publisher, Trust
from fieldstation.records import Message
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import Filter, detections
from tests.fakes import FakeClock
from tests.mosquitto import Mosquitto, needs_mosquitto
from tests.mqtt import fakes
from tests.mqtt.conftest import QUICK, Connect
from tests.mqtt.fakes import KEY, OWN, TURN_S, Outbox, detection, listening, running, until

pytestmark = needs_mosquitto
RESEND_S = 0.3


def publisher(
    connection: Connection, outbox: Outbox, trusted: str = OWN, resend_s: float = RESEND_S
) -> Publisher:
    """Return a publisher with little patience."""
    return Publisher(
        connection,
        outbox,
        Topics("garden"),
        KEY,
        Trust(logger_id=trusted),
        resend_s=resend_s,
        soon_s=resend_s,
        turn_s=TURN_S,
    )


def logger(connection: Connection, log: fakes.Log, name: str = OWN) -> Logger:
    """Return a logger with little patience."""
    return Logger(connection, cast(Log, log), name, backoff=Backoff(0.02, 0.05), turn_s=TURN_S)


@contextmanager
def at_work(
    connect: Connect, outbox: Outbox, log: fakes.Log, resend_s: float = RESEND_S
) -> Iterator[Publisher]:
    """Run a station's publisher and its logger, the logger first."""
    receiving = connect()
    telling = publisher(connect(), outbox, resend_s=resend_s)
    with running(logger(receiving, log)):
        until(lambda: receiving.up)
        with running(telling):
            yield telling


def test_everything_that_waits_arrives_once_and_in_order(connect: Connect) -> None:
    """2,000 rows: more than a queue, a batch or a window holds."""
    outbox, log = Outbox.of(2_000), fakes.Log()
    with at_work(connect, outbox, log, resend_s=1_000) as telling:
        until(lambda: telling.idle)
    assert len(log.rows) == 2_000
    assert list(log.rows) == [detection(n).event_id for n in range(1, 2_001)]
    assert set(log.n_offered.values()) == {1}
    assert set(outbox.confirmed.values()) == {1}


def test_what_waited_when_a_station_was_renamed_is_told_by_its_new_name(connect: Connect) -> None:
    """Below the old one nobody hears it, and no access list lets the station write there."""
    outbox, log = Outbox.of(3, station="pond"), fakes.Log()
    receiving = connect()
    own = Logger(receiving, cast(Log, log), OWN, station="garden", turn_s=TURN_S)
    with running(own), running(publisher(connect(), outbox)) as _:
        until(lambda: outbox.n_pending() == 0)
    assert {row.station for row in log.rows.values()} == {"garden"}
    assert len(log.rows) == 3


def test_a_broker_that_forgets_everything_again_and_again_loses_nothing(
    broker: Mosquitto, connect: Connect
) -> None:
    """It is killed in the middle, its memory gone, while rows wait on every stretch of the way."""
    outbox, log = Outbox.of(1_500), fakes.Log()
    with at_work(connect, outbox, log) as telling:
        for part in (100, 500, 900):
            until(lambda part=part: len(log.rows) >= part)  # type: ignore[misc]
            broker.kill()
            broker.start()
        until(lambda: telling.idle)
    assert set(log.rows) == {detection(n).event_id for n in range(1, 1_501)}
    assert outbox.n_pending() == 0


def test_a_broker_that_hangs_only_delays(broker: Mosquitto, connect_impatiently: Connect) -> None:
    """Noticed by its silence; sent again when it speaks."""
    outbox, log = Outbox(), fakes.Log()
    with at_work(connect_impatiently, outbox, log) as telling:
        until(lambda: telling.state().connection.up)
        broker.hang()
        for n in range(1, 51):
            outbox.add(detection(n))
        telling.wake()
        until(lambda: not telling.state().connection.up)
        broker.go_on()
        until(lambda: telling.idle)
    assert len(log.rows) == 50


def test_rows_from_before_the_logger_came_arrive_when_it_comes(connect: Connect) -> None:
    """The broker acknowledged and dropped them, for nobody listened: a PUBACK is no receipt."""
    outbox, log = Outbox.of(250), fakes.Log()
    telling = publisher(connect(), outbox)
    with running(telling):
        until(lambda: telling.state().n_resent > 0)
        assert outbox.n_pending() == 250
        with running(logger(connect(), log)):
            until(lambda: telling.idle)
    assert len(log.rows) == 250


def test_a_logger_that_hears_again_is_told_at_once_what_it_missed(connect: Connect) -> None:
    """The station's own says so to its publisher, which else would wait for the next sweep."""
    outbox, log, clock = Outbox.of(250), fakes.Log(), FakeClock()
    telling = Publisher(
        connect(),
        outbox,
        Topics("garden"),
        KEY,
        Trust(logger_id=OWN),
        monotonic=clock.monotonic,
        turn_s=TURN_S,
    )
    everything = Session("ear", (Subscription("fieldstation/garden/detection"),))
    with listening(connect(), everything) as ear, running(telling):
        until(lambda: len(ear.deliveries) == 250)
        until(lambda: telling.state().n_in_flight == 0)
        clock.advance(SOON_S)
        until(lambda: telling.state().n_resent > 0)
        again = telling.go_over_again
        with running(Logger(connect(), cast(Log, log), OWN, on_hearing=again, turn_s=TURN_S)):
            until(lambda: telling.idle)
    assert len(log.rows) == 250


class LosesReceipts(Connection):
    """A connection on which the first few messages vanish."""

    n_to_lose = 0

    def publish(self, message: Message) -> Ticket | None:
        if message.topic.endswith("/logged") and self.n_to_lose > 0:
            self.n_to_lose -= 1
            return None
        return super().publish(message)


def test_lost_receipts_bring_the_rows_again_but_never_twice_into_the_log(
    broker: Mosquitto, connect: Connect
) -> None:
    """The log knows their ids; the second receipt arrives."""
    outbox, log = Outbox.of(30), fakes.Log()
    receiving = LosesReceipts(Access(BrokerUrl.parse(broker.url)), QUICK)
    receiving.n_to_lose = 2
    telling = publisher(connect(), outbox)
    with running(logger(receiving, log)):
        until(lambda: receiving.up)
        with running(telling):
            until(lambda: telling.idle)
    assert len(log.rows) == 30
    assert sum(log.n_offered.values()) > 30


def test_two_loggers_log_both_and_the_trusted_one_ends_the_rows(connect: Connect) -> None:
    """A hub's own receipt is no news to a station that trusts another."""
    outbox, own, hub = Outbox.of(40), fakes.Log(), fakes.Log()
    own.fault = OSError("the trusted log is away")
    telling = publisher(connect(), outbox)
    receiving = connect()
    with running(logger(receiving, own), logger(connect(), hub, "hub")):
        until(lambda: receiving.up)
        with running(telling):
            until(lambda: len(hub.rows) == 40)
            assert outbox.n_pending() == 40
            own.fault = None
            until(lambda: telling.idle)
    assert own.rows == hub.rows


def test_a_logger_that_dies_in_mid_stream_is_followed_by_one_that_knows_the_ids(
    connect: Connect,
) -> None:
    """Half in the log, a quarter acknowledged, the rest anywhere: the sum is still right."""
    outbox, log = Outbox.of(800), fakes.Log()
    telling = publisher(connect(), outbox)
    receiving = connect()
    with running(telling):
        with running(logger(receiving, log)):
            until(lambda: len(log.rows) >= 100)
        with running(logger(connect(), log)):
            until(lambda: telling.idle)
    assert len(log.rows) == 800


def test_the_same_with_the_real_log(tmp_path: Path, broker: Mosquitto, connect: Connect) -> None:
    """SQLite under it, the broker killed half-way."""
    outbox = Outbox.of(600)
    log = LogStore(f"sqlite:///{tmp_path / 'log.db'}")
    receiving, telling = connect(), publisher(connect(), outbox)
    with running(Logger(receiving, log, OWN, turn_s=TURN_S)):
        until(lambda: receiving.up)
        with running(telling):
            until(lambda: outbox.n_pending() < 400)
            broker.kill()
            broker.start()
            until(lambda: telling.idle)
    found = list(detections(log, Filter(limit=10_000)))
    log.close()
    assert sorted(d.sequence for d in found) == list(range(1, 601))


def test_a_publisher_killed_at_any_moment_leaves_its_rows_to_the_next(connect: Connect) -> None:
    """Whatever it had in flight is still in the outbox."""
    outbox, log = Outbox.of(500), fakes.Log()
    receiving = connect()
    with running(logger(receiving, log)):
        until(lambda: receiving.up)
        with running(publisher(connect(), outbox)):
            until(lambda: len(log.rows) > 50)
        again = publisher(connect(), outbox)
        with running(again):
            until(lambda: again.idle)
    assert len(log.rows) == 500


@pytest.mark.parametrize("name", ["garden", "Gärten am See"])
def test_a_station_may_have_any_name(connect: Connect, name: str) -> None:
    """The topic carries what of it a topic can."""
    outbox, log = Outbox(), fakes.Log()
    outbox.add(detection(1, name))
    receiving = connect()
    own = Logger(receiving, cast(Log, log), OWN, station=name, turn_s=TURN_S)
    telling = Publisher(connect(), outbox, Topics(name), KEY, Trust(logger_id=OWN))
    with running(own):
        until(lambda: receiving.up)
        with running(telling):
            until(lambda: telling.idle)
    assert [d.station for d in log.rows.values()] == [Topics(name).level]
