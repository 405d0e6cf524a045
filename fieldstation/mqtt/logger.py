"""Broker -> log: a stage that commits before it acknowledges, and then gives receipts.

The broker keeps what this client has not acknowledged, a week long (MQTT 5 session, fixed client
id). So a crash between receiving and committing loses nothing, one between committing and
acknowledging only brings messages twice, and the log knows their ids.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event
from typing import Protocol

from fieldstation.mqtt import messages
from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import (
    Connection,
    ConnectionState,
    Delivery,
    Session,
    Subscription,
    Ticket,
)
from fieldstation.mqtt.messages import Coverage, Receipt, Refusal, Topics, Unfit
from fieldstation.mqtt.seldom import Seldom
from fieldstation.records import Detection, Interval, Picture, Quarantined

log = logging.getLogger(__name__)

BATCH = 500
"""Messages to a transaction, and what the broker may leave unacknowledged with us"""
INBOX_BYTES = 64 * 1024 * 1024
"""Of messages that wait: a batch of pictures has 45 MB, and strangers send larger ones"""
MAXIMUM_PACKET = messages.MAX_PAYLOAD + 64 * 1024
"""Bytes: a little more than may be, so that what is too large is seen, and told"""
SESSION_S = 7 * 24 * 3600
TURN_S = 0.5
PATIENCE_S = 5.0
"""How long the network waits for the log; well within the keepalive"""
KINDS = ("detection", "coverage")
IN_THE_LOG = ("new", "same")


class Log(Protocol):
    """Where detections go for good."""

    def record(self, detections: Sequence[Detection], received_at: int) -> Sequence[str]:
        """Commit all of them; say of each `new`, `same`, or why it is in quarantine instead."""
        ...

    def record_coverage(
        self, station: str, station_key: str, intervals: Iterable[Interval]
    ) -> None:
        """Commit a station's intervals."""
        ...

    def quarantine(self, *messages: Quarantined) -> None:
        """Commit messages that do not fit."""
        ...


class PictureIntake(Protocol):
    """Where pictures go that come with messages."""

    def take(self, picture: Picture, png: bytes, received_at: int) -> str:
        """Keep a picture; return why not, or an empty text where it is there now."""
        ...


@dataclass(frozen=True, slots=True)
class LoggerState:
    """For health and `check`. Counts are since the start."""

    connection: ConnectionState
    fault: str
    """Why the log takes nothing just now; empty when it does"""
    n_recorded: int
    n_repeated: int
    n_refused: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries sorted by what is to be done with them."""

    detections: list[Detection] = field(default_factory=list)
    coverages: list[Coverage] = field(default_factory=list)
    images: list[tuple[Delivery, Picture, bytes]] = field(default_factory=list)
    unfit: list[tuple[Delivery, str]] = field(default_factory=list)


class Inbox(Queue[Delivery]):
    """Deliveries that wait: full by their number, or by their bytes."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._n_bytes = 0

    def _qsize(self) -> int:
        return self.maxsize if self._n_bytes > INBOX_BYTES else len(self.queue)

    def _put(self, item: Delivery) -> None:
        self._n_bytes += len(item.payload)
        super()._put(item)

    def _get(self) -> Delivery:
        item = super()._get()
        self._n_bytes -= len(item.payload)
        return item


class Logger:
    """A stage: writes what stations tell into a log and confirms it to them."""

    def __init__(
        self,
        connection: Connection,
        log: Log,
        logger_id: str,
        *,
        station: str | None = None,
        pictures: PictureIntake | None = None,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000,
        away: tuple[type[Exception], ...] = (OSError,),
        on_hearing: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
        turn_s: float = TURN_S,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            log: where to write.
            logger_id: whose receipts these are; the client id carries it.
            station: the one station to log; None: all of them (a hub).
            pictures: takes what others paint; None: they are not asked for.
            wall: the instant now.
            away: what the log raises while its disk, lock or server is not to be had.
            on_hearing: called in the network thread whenever the broker has our subscriptions:
                a broker that did not know us has kept nothing for us until now.
            backoff: waits between tries while it is.
            turn_s: longest wait between two beats.
        """
        self._connection = connection
        self._log = log
        self._id = logger_id
        self._level = "+" if station is None else Topics(station).level
        self._pictures = pictures
        self._wall = wall
        self._away = away
        self._on_hearing = on_hearing
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._turn_s = turn_s
        # Twice what a broker may send: Mosquitto 2.0.11, of Debian 12, sends all that it has after
        # the first acknowledgement, whatever receive maximum it was told.
        self._inbox = Inbox(2 * BATCH)
        self._left_out = False
        self._misfits = Seldom(_warn)
        self._fault = ""
        self._n_recorded = self._n_repeated = self._n_refused = 0

    def run(self, stop: Event, beat: Callable[[], None]) -> None:
        """Log until `stop`. What is then uncommitted stays with the broker."""
        with self._connection.open(self._session(), self):
            while not stop.is_set():
                self._connection.check()
                if deliveries := self._take():
                    self._keep_trying(deliveries, stop, beat)
                elif self._left_out:
                    self._left_out = False
                    self._connection.renew("more came than the log could take: asking for it again")
                self._misfits.turn()
                beat()

    def state(self) -> LoggerState:
        """Return how it is, for health."""
        return LoggerState(
            connection=self._connection.state(),
            fault=self._fault,
            n_recorded=self._n_recorded,
            n_repeated=self._n_repeated,
            n_refused=self._n_refused,
        )

    # In the network thread.

    def on_up(self) -> None:
        """Say that we hear; what the broker still has for us, it sends."""
        self._on_hearing()

    def on_message(self, delivery: Delivery) -> None:
        """Queue a message; while the queue is full, let the network wait, and so the broker.

        While the log is away that would cost the connection: then it is left unacknowledged.
        """
        try:
            self._inbox.put(delivery, timeout=0 if self._fault else PATIENCE_S)
        except Full:
            self._left_out |= delivery.qos > 0  # QoS 0, which no station sends, does not come again

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Note that the broker will not pass a receipt on."""
        if refusal:
            self._connection.report(f"the broker refuses our receipts: {refusal}")

    # In the stage's thread.

    def _session(self) -> Session:
        kinds = KINDS if self._pictures is None else (*KINDS, "image")
        return Session(
            client_id=f"fieldstation-logger-{self._id}",
            subscriptions=tuple(
                Subscription(f"{messages.ROOT}/{self._level}/{kind}", own=True) for kind in kinds
            ),
            expiry_s=SESSION_S,
            manual_ack=True,
            receive_maximum=BATCH,
            maximum_packet=MAXIMUM_PACKET,
        )

    def _take(self) -> list[Delivery]:
        """Wait at most `turn_s` for a message; return what is there, at most a batch."""
        taken: list[Delivery] = []
        with suppress(Empty):
            taken.append(self._inbox.get(timeout=self._turn_s))
            while len(taken) < BATCH:
                taken.append(self._inbox.get_nowait())
        return taken

    def _keep_trying(
        self, deliveries: list[Delivery], stop: Event, beat: Callable[[], None]
    ) -> None:
        """Commit a batch, however long that takes; then acknowledge it and give receipts."""
        batch = sort([delivery for delivery in deliveries if self._is_ours(delivery)])
        while not stop.is_set():
            try:
                receipts = self._commit(batch, beat)
            except self._away as error:
                self._report(str(error))
                wait_until(time.monotonic() + self._backoff.next(), stop, beat)
                continue
            self._report("")
            self._backoff.reset()
            for delivery in deliveries:
                self._connection.acknowledge(delivery)
            for receipt in receipts:
                self._connection.publish(messages.receipt_message(receipt))
            return

    def _is_ours(self, delivery: Delivery) -> bool:
        """Return whether we log a message; what we do not is acknowledged, and that is all.

        The broker keeps a session's subscriptions, those below an earlier name of the station too.
        """
        return self._level in ("+", delivery.topic.split("/")[1])

    def _commit(self, batch: Batch, beat: Callable[[], None]) -> list[Receipt]:
        """Write everything; return one receipt a station."""
        now = self._wall()
        done: defaultdict[str, list[str]] = defaultdict(list)
        refused: defaultdict[str, list[Refusal]] = defaultdict(list)
        outcomes = self._log.record(batch.detections, now) if batch.detections else []
        for detection, outcome in zip(batch.detections, outcomes, strict=True):
            if outcome in IN_THE_LOG:
                done[detection.station].append(detection.event_id)
            else:
                reason = f"{outcome}: see the logger's quarantine"
                refused[detection.station].append(Refusal(detection.event_id, reason))
        for coverage in batch.coverages:
            self._log.record_coverage(coverage.station, coverage.station_key, coverage.intervals)
            done[coverage.station].append(coverage.message_id)
        misfits = self._take_pictures(batch, now, beat)
        self._set_aside([*batch.unfit, *misfits], now)
        for delivery, reason in batch.unfit:
            for station, refusal in _refusal(delivery, reason):
                refused[station].append(refusal)
        self._count(outcomes, refused)
        now = self._wall()
        return [
            Receipt(station, self._id, now, tuple(done[station]), tuple(refused[station]))
            for station in {**done, **refused}
        ]

    def _take_pictures(
        self, batch: Batch, now: int, beat: Callable[[], None]
    ) -> list[tuple[Delivery, str]]:
        """Keep pictures; return those that do not fit, with the reason."""
        misfits = []
        for delivery, picture, png in batch.images:
            if self._pictures and (reason := self._pictures.take(picture, png, now)):
                misfits.append((delivery, reason))
            beat()  # each is a file: a full batch takes a slow card a while
        return misfits

    def _set_aside(self, unfit: Sequence[tuple[Delivery, str]], now: int) -> None:
        """Quarantine what does not fit, in one transaction: each costs the disk as much as all."""
        if unfit:
            self._log.quarantine(
                *(Quarantined(now, found.topic, found.payload, reason) for found, reason in unfit)
            )
        for found, reason in unfit:
            self._misfits.say(f"{found.topic[:200]!a}: put into quarantine: {reason}")

    def _count(self, outcomes: Sequence[str], refused: dict[str, list[Refusal]]) -> None:
        self._n_recorded += sum(outcome == "new" for outcome in outcomes)
        self._n_repeated += sum(outcome == "same" for outcome in outcomes)
        self._n_refused += sum(map(len, refused.values()))

    def _report(self, fault: str) -> None:
        if fault and not self._fault:
            log.warning("the log takes nothing: %s; trying again", fault)
        elif self._fault and not fault:
            log.info("the log takes messages again")
        self._fault = fault


def sort(deliveries: Sequence[Delivery]) -> Batch:
    """Read deliveries; what does not fit is set aside with the reason."""
    batch = Batch()
    for delivery in deliveries:
        try:
            if delivery.topic.endswith("/coverage"):
                batch.coverages.append(messages.read_coverage(delivery.topic, delivery.payload))
            elif delivery.topic.endswith("/image"):
                batch.images.append(
                    (delivery, *messages.read_image(delivery.topic, delivery.payload))
                )
            else:
                batch.detections.append(messages.read_detection(delivery.topic, delivery.payload))
        except Unfit as error:
            batch.unfit.append((delivery, str(error)))
    return batch


def _warn(text: str) -> None:
    log.warning("%s", text)


def _refusal(delivery: Delivery, reason: str) -> Iterator[tuple[str, Refusal]]:
    """Yield whom to tell what of an unfit message, where it still shows its station and its id.

    Not of a picture: the id that it shows is its event's, which may still be on its way.
    """
    with suppress(Unfit):
        station, kind = messages.split_topic(delivery.topic)
        if kind == "image":
            return
        if (found := messages.legible_id(delivery.payload)) is not None:
            yield station, Refusal(found, reason)


def wait_until(deadline: float, stop: Event, beat: Callable[[], None]) -> None:
    """Wait, with a beat a turn, until the monotonic `deadline` or `stop`."""
    while (left := deadline - time.monotonic()) > 0 and not stop.is_set():
        stop.wait(min(left, TURN_S))
        beat()
