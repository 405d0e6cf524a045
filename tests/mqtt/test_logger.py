"""From the broker to the log: committed first, acknowledged second, confirmed third."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import Full
from typing import cast

import pytest

from fieldstation.mqtt import messages
from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import Connection, Delivery, Session, Subscription
from fieldstation.mqtt.logger import BATCH, INBOX_BYTES, Inbox, Log, Logger
from fieldstation.mqtt.messages import Coverage, Receipt
from fieldstation.records import Detection, Hearing, Interval, Message
from tests.mosquitto import Mosquitto, needs_mosquitto
from tests.mqtt import fakes
from tests.mqtt.conftest import Connect
from tests.mqtt.fakes import KEY, OWN, TURN_S, Listener, detection, listening, running, until

pytestmark = needs_mosquitto


class Crash(Exception):
    """What nobody expects: the process would end."""


def logger(connection: Connection, log: fakes.Log, station: str | None = None) -> Logger:
    """Return a logger with little patience."""
    return Logger(
        connection, cast(Log, log), OWN, station=station, backoff=Backoff(0.02, 0.05), turn_s=TURN_S
    )


@contextmanager
def telling(connect: Connect) -> Iterator[tuple[Connection, Listener]]:
    """Return a connection to publish on, and what comes on every `logged`."""
    connection = connect()
    with listening(connection, Session("teller", (Subscription("fieldstation/+/logged"),))) as seen:
        yield connection, seen


def receipts(seen: Listener) -> list[Receipt]:
    """Return the receipts that were heard."""
    return [messages.read_receipt(d.topic, d.payload) for d in seen.deliveries]


def tell(connection: Connection, *numbers: int, station: str = "garden") -> None:
    """Publish detections by their number."""
    for n in numbers:
        connection.publish(messages.detection_message(detection(n, station)))


@contextmanager
def logging_to(connect: Connect, log: fakes.Log, station: str | None = None) -> Iterator[Logger]:
    """Run a logger and wait until the broker has its subscriptions."""
    connection = connect()
    stage = logger(connection, log, station)
    with running(stage):
        until(lambda: connection.up)
        yield stage


def subscribe_once(connect: Connect, log: fakes.Log) -> None:
    """Let the logger make its session at the broker, and stop."""
    with logging_to(connect, log):
        pass


def test_a_detection_is_logged_and_confirmed(connect: Connect) -> None:
    """One receipt names the station's ids and whose log it is."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, seen):
        tell(teller, 1)
        until(lambda: seen.deliveries)
    assert log.rows == {detection(1).event_id: detection(1)}
    (only,) = receipts(seen)
    assert (only.station, only.logger_id) == ("garden", OWN)
    assert only.ids == (detection(1).event_id,)
    assert only.refused == ()


def test_a_hub_gives_each_station_its_own_receipt(connect: Connect) -> None:
    """A thousand stations, one logger."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, seen):
        tell(teller, 1, station="north")
        tell(teller, 2, station="south")
        until(lambda: len(log.rows) == 2)
        until(lambda: {r.station for r in receipts(seen)} == {"north", "south"})


def test_a_station_s_own_logger_hears_that_station_only(connect: Connect) -> None:
    """Another station on the same broker is another log's business."""
    log = fakes.Log()
    with logging_to(connect, log, "north"), telling(connect) as (teller, seen):
        tell(teller, 1, station="south")
        tell(teller, 2, station="north")
        until(lambda: seen.deliveries)
    assert {d.station for d in log.rows.values()} == {"north"}


def test_the_name_that_a_station_had_before_is_let_go(connect: Connect) -> None:
    """The broker keeps a session's subscriptions: whoever has that name now, is heard still."""
    log = fakes.Log()
    with logging_to(connect, log, "south"):
        pass
    with logging_to(connect, log, "north"), telling(connect) as (teller, seen):
        tell(teller, 1, station="south")
        tell(teller, 2, station="north")
        until(lambda: seen.deliveries)
        tell(teller, 3, station="north")
        until(lambda: len(receipts(seen)) > 1)
    assert {d.station for d in log.rows.values()} == {"north"}
    with logging_to(connect, log):  # nor does it come again, to whoever asks for all
        time.sleep(0.2)
    assert {d.station for d in log.rows.values()} == {"north"}


def test_a_repeated_detection_is_confirmed_again(connect: Connect) -> None:
    """Its first receipt may have been lost; the log keeps one row."""
    log = fakes.Log()
    with logging_to(connect, log) as stage, telling(connect) as (teller, seen):
        tell(teller, 1)
        until(lambda: len(receipts(seen)) == 1)
        tell(teller, 1)
        until(lambda: len(receipts(seen)) == 2)
        state = stage.state()
    assert len(log.rows) == 1
    assert (state.n_recorded, state.n_repeated) == (1, 1)


def test_a_conflicting_detection_is_refused_in_the_receipt(connect: Connect) -> None:
    """So that its station stops sending it and its people learn of it."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, seen):
        tell(teller, 1)
        other = replace(detection(1), scientific_name="Turdus merula")
        teller.publish(messages.detection_message(other))
        until(lambda: any(r.refused for r in receipts(seen)))
    assert log.rows[other.event_id].scientific_name == "Fringilla coelebs"
    assert receipts(seen)[-1].refused[0].id == other.event_id


@pytest.mark.parametrize("payload", [b"nonsense", b"", b"[" * 100_000, b" " * 300_000])
def test_what_does_not_fit_is_put_aside_and_the_rest_goes_on(
    connect: Connect, payload: bytes
) -> None:
    """Neither size nor nesting nor nothing at all stops the logger."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, _):
        teller.publish(Message("fieldstation/garden/detection", payload))
        tell(teller, 1)
        until(lambda: log.rows)
        until(lambda: log.quarantined)
    (kept,) = log.quarantined
    assert kept.reason
    assert kept.payload == payload  # whole: the log cuts it, and notes its real size


def test_an_unfit_detection_that_shows_its_id_is_refused(connect: Connect) -> None:
    """A station of another version would otherwise send it for ever."""
    log = fakes.Log()
    payload = messages.detection_message(detection(1)).payload.replace(b'":0.91', b'":9.1')
    with logging_to(connect, log), telling(connect) as (teller, seen):
        teller.publish(Message("fieldstation/garden/detection", payload))
        until(lambda: receipts(seen))
    (refusal,) = receipts(seen)[0].refused
    assert refusal.id == detection(1).event_id
    assert "probability" in refusal.reason


def test_coverage_is_logged_and_confirmed(connect: Connect) -> None:
    """What was not heard is as much the log's as what was."""
    log = fakes.Log()
    lost = Interval("run-1", 5, 2.5, Hearing.LOST, "microphone")
    with logging_to(connect, log), telling(connect) as (teller, seen):
        teller.publish(messages.coverage_message(Coverage("garden", KEY, "c-1", (lost,))))
        until(lambda: receipts(seen))
    assert log.intervals == {"garden": [lost]}
    assert receipts(seen)[0].ids == ("c-1",)


def test_a_log_that_is_away_is_waited_for(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported once at each end, nothing acknowledged, nothing lost, and the stage stays alive."""
    caplog.set_level(logging.INFO)
    log = fakes.Log()
    log.fault = OSError("database is locked")
    stage = logger(connect(), log)
    with running(stage) as (thread,), telling(connect) as (teller, seen):
        until(lambda: stage.state().connection.up)
        tell(teller, 1, 2, 3)
        until(lambda: stage.state().fault == "database is locked")
        beats = thread.n_beats
        until(lambda: thread.n_beats > beats + 3)
        assert not seen.deliveries
        log.fault = None
        until(lambda: len(log.rows) == 3)
        until(lambda: stage.state().fault == "")
    lines = [r.levelno for r in caplog.records if "the log takes" in r.getMessage()]
    assert lines == [logging.WARNING, logging.INFO]


def test_a_logger_that_stops_while_its_log_is_away_loses_nothing(connect: Connect) -> None:
    """What it did not commit, the broker still has for the next one of its id."""
    log = fakes.Log()
    log.fault = OSError("disk full")
    with telling(connect) as (teller, _):
        with logging_to(connect, log) as stage:
            tell(teller, 1, 2)
            until(lambda: stage.state().fault)
        log.fault = None
        with running(logger(connect(), log)):
            until(lambda: len(log.rows) == 2)


def test_a_crash_before_the_commit_brings_the_messages_again(connect: Connect) -> None:
    """The broker has no acknowledgement, so no station needs to help."""
    log = fakes.Log()
    subscribe_once(connect, log)
    with telling(connect) as (teller, seen):
        tell(teller, *range(1, 51))
        until(lambda: len(seen.published) == 50)
    log.fault = Crash()
    with pytest.raises(Crash), running(logger(connect(), log)) as (thread,):
        until(lambda: thread.error)
    assert not log.rows
    log.fault = None
    with running(logger(connect(), log)):
        until(lambda: len(log.rows) == 50)


def test_acknowledged_messages_do_not_come_again(connect: Connect) -> None:
    """After a commit the broker lets go."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, _):
        tell(teller, *range(1, 11))
        until(lambda: len(log.rows) == 10)
    with logging_to(connect, log), telling(connect) as (teller, _):
        tell(teller, 11)
        until(lambda: len(log.rows) == 11)
    assert set(log.n_offered.values()) == {1}


def test_more_than_a_batch_waits_at_the_broker(connect: Connect) -> None:
    """The receive maximum holds the rest back; nothing is dropped on either side."""
    log = fakes.Log()
    subscribe_once(connect, log)
    n = 3 * BATCH
    with telling(connect) as (teller, seen):
        tell(teller, *range(1, n + 1))
        until(lambda: len(seen.published) == n)
    with running(logger(connect(), log)):
        until(lambda: len(log.rows) == n)
    assert set(log.n_offered.values()) == {1}


def test_a_broker_that_restarts_under_an_open_batch_does_no_harm(
    broker: Mosquitto, connect: Connect
) -> None:
    """Its acknowledgements belong to a connection that is gone, and are dropped."""
    log = fakes.Log()
    log.fault = OSError("locked")
    with logging_to(connect, log) as stage, telling(connect) as (teller, seen):
        tell(teller, 1)
        until(lambda: stage.state().fault)
        broker.kill()
        broker.start()
        until(lambda: stage.state().connection.n_connected == 2)
        until(lambda: seen.n_up == 2)
        log.fault = None
        until(lambda: len(log.rows) == 1)
        tell(teller, 2)
        until(lambda: len(log.rows) == 2)


def test_a_thousand_misfits_are_one_line(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is in quarantine; the journal is not filled by who sends nonsense."""
    log = fakes.Log()
    with logging_to(connect, log), telling(connect) as (teller, _):
        for n in range(1_000):
            teller.publish(Message("fieldstation/garden/detection", b"nonsense %d" % n))
        until(lambda: len(log.quarantined) == 1_000)
    lines = [r.getMessage() for r in caplog.records if "quarantine" in r.getMessage()]
    assert len(lines) == 1
    assert "'fieldstation/garden/detection': put into quarantine: not JSON" in lines[0]


class SlowLog(fakes.Log):
    """A log that takes its time for each batch, as a card does."""

    def record(self, detections: Sequence[Detection], received_at: int) -> list[str]:
        time.sleep(0.3)
        return super().record(detections, received_at)


def test_all_that_waited_at_the_broker_is_taken_at_the_log_s_pace(connect: Connect) -> None:
    """Mosquitto 2.0.11 sends everything after one acknowledgement, whatever it was asked for.

    Nobody sends again here: what the logger lets fall stays away.
    """
    log = SlowLog()
    n = 5 * BATCH
    subscribe_once(connect, log)
    with telling(connect) as (teller, seen):
        tell(teller, *range(1, n + 1))
        until(lambda: len(seen.published) == n)
        with logging_to(connect, log):
            until(lambda: len(log.rows) == n)
    assert set(log.n_offered.values()) == {1}


def test_what_came_while_the_log_was_away_is_taken_when_it_is_back(connect: Connect) -> None:
    """More than the logger may keep in memory, from stations that do not send again."""
    log = SlowLog()
    n = 7 * BATCH
    subscribe_once(connect, log)
    log.fault = OSError("the disk is full")
    with telling(connect) as (teller, _), logging_to(connect, log) as stage:
        tell(teller, 1)
        until(lambda: stage.state().fault)
        tell(teller, *range(2, n + 1))
        log.fault = None
        until(lambda: len(log.rows) == n)


def test_large_messages_that_wait_do_not_fill_the_memory() -> None:
    """QoS 0 is held back by no receive maximum, and 1,000 messages may be 300 MB."""
    inbox = Inbox(1_000)
    large = Delivery("fieldstation/garden/detection", bytes(1_000_000), False, (1, 0), qos=0)
    n = INBOX_BYTES // 1_000_000 + 1
    for _ in range(n):
        inbox.put(large, timeout=0)
    with pytest.raises(Full):
        inbox.put(large, timeout=0)
    inbox.get()
    inbox.put(large, timeout=0)
    taken = [inbox.get_nowait() for _ in range(n)]
    assert len(taken) == n
    assert inbox.empty()
