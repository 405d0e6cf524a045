"""Outbox -> broker, until the trusted logger says that it has committed.

A row is done when its receipt came (or, for what no log keeps, when the broker has it). Rows are
published in order, at most `WINDOW` of them unacknowledged by the broker at a time. What the broker
took but no logger confirmed is gone over again, a page at a time: at once after a reconnect, since
a restarted broker may have forgotten it, else after `resend_s`, and ever more rarely while no
logger answers. New rows never wait for that: whoever listens live hears birds without a log too.

Only a cursor and one page are kept in memory, however many rows wait.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Event
from typing import Protocol

from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import (
    Connection,
    ConnectionState,
    Delivery,
    Session,
    Subscription,
    Ticket,
)
from fieldstation.mqtt.messages import Status, Topics, Unfit
from fieldstation.mqtt.seldom import Seldom
from fieldstation.records import Message, OutboxRow

log = logging.getLogger(__name__)

WINDOW = 100
"""Rows that the broker has not acknowledged yet; also the page that is sent again"""
RESEND_S = 60.0
SOON_S = 5.0
"""This long after a connect goes again what was told at its very beginning and passed over: our own
logger may have subscribed a moment later than we published, and a broker that does not know it
kept nothing for it"""
EARLY = 5
"""What was told within this part of that time is watched for it; the rest is left for a receipt"""
EARLY_ROWS = 1_000
LONGEST_RESEND_S = 900.0
TURN_S = 0.5
INBOX_LIMIT = 300
"""What may wait for a slow disk; more receipts are dropped, and asked for again"""
MAXIMUM_PACKET = messages.MAX_PAYLOAD + 1024
"""Bytes: no receipt is larger, and so many of what is may not wait in our memory"""
WITH_RECEIPT = ("detection", "coverage", "image")
"""Kinds that a logger keeps; for the others the broker's word is enough"""


class Outbox(Protocol):
    """What waits to be told, oldest first."""

    def pending(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return at most `limit` unconfirmed rows of a higher sequence than `after`, in order."""
        ...

    def n_pending(self) -> int:
        """Return how many rows are unconfirmed."""
        ...

    def confirm(self, ids: Sequence[str], /) -> object:
        """Take rows out, now or soon; an unknown id is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word ends a message."""

    receipts: bool = True
    """False: the broker's acknowledgement suffices"""
    logger_id: str | None = None
    """The one logger that counts; None: any"""

    @classmethod
    def parse(cls, word: str, own: str) -> Trust:
        """Return what `mqtt.trust` says: own, any, none, or a logger's id."""
        match word:
            case "none":
                return cls(receipts=False)
            case "any":
                return cls()
            case "own":
                return cls(logger_id=own)
        return cls(logger_id=word)

    def accepts(self, logger_id: str) -> bool:
        """Return whether this logger's receipt counts."""
        return self.receipts and self.logger_id in (None, logger_id)


@dataclass(frozen=True, slots=True)
class PublisherState:
    """For health and `check`."""

    connection: ConnectionState
    n_in_flight: int
    n_confirmed: int
    """Since the start, as the two below"""
    n_resent: int
    n_refused: int
    """What a logger put into quarantine"""
    twin: str
    """Key of another station that goes by our name; empty where there is none"""


@dataclass(slots=True)
class _Sweep:
    """Going over what was sent before `upto` and is still unconfirmed, page by page."""

    upto: int
    after: int = 0
    page: set[str] = field(default_factory=set)
    sent_at: float = 0.0
    answered: bool = False


class Publisher:
    """A stage: publishes an outbox and takes confirmed rows out of it."""

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        topics: Topics,
        station_key: str,
        trust: Trust = Trust(),
        *,
        version: str | None = None,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000,
        monotonic: Callable[[], float] = time.monotonic,
        away: tuple[type[Exception], ...] = (OSError,),
        resend_s: float = RESEND_S,
        soon_s: float = SOON_S,
        turn_s: float = TURN_S,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            version: told in the status.
            wall: the instant now.
            monotonic: the seconds now.
            away: what the outbox raises while its disk is not to be had.
            resend_s: how long a receipt may take.
            soon_s: how long it may take just after a connect.
            turn_s: longest wait between two beats.
        """
        self._connection = connection
        self._outbox = outbox
        self._topics = topics
        self._level = topics.level
        self._key = station_key
        self._trust = trust
        self._version = version
        self._wall = wall
        self._monotonic = monotonic
        self._away = away
        self._resend_s = resend_s
        self._soon_s = soon_s
        self._turn_s = turn_s
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._woken = Event()
        self._in_flight: dict[Ticket, OutboxRow] = {}
        self._cursor = 0
        self._sweep: _Sweep | None = None
        self._patience_s = resend_s
        self._sweep_at = 0.0
        self._soon_at = math.inf
        self._early_until = 0.0
        self._early: dict[str, int] = {}
        self._confirmed_upto = 0
        self._mark = 0
        self._acknowledged_at = 0.0
        self._outbox_fault = ""
        self._n_confirmed = self._n_resent = self._n_refused = 0
        self._twin = ""
        self._n_begun = 0
        self._oddities, self._twins = Seldom(_complain), Seldom(_complain)

    def run(self, stop: Event, beat: Callable[[], None]) -> None:
        """Publish until `stop`; then the broker tells our will, `offline`."""
        with self._connection.open(self._session(), self):
            while not stop.is_set():
                self._turn()
                self._oddities.turn()
                self._twins.turn()
                beat()

    def wake(self) -> None:
        """Look into the outbox now; from any thread, as often as one likes."""
        if not self._woken.is_set():
            self._woken.set()
            self._inbox.put(self._woken.clear)

    def go_over_again(self) -> None:
        """Send everything unconfirmed again soon; from any thread."""
        self._inbox.put(self._let_sweep)

    def send_live(self, message: Message) -> bool:
        """Publish what is worth nothing later; False, and gone, without a connection."""
        return self._connection.publish(message) is not None

    @property
    def idle(self) -> bool:
        """Return whether everything has been told and confirmed."""
        return not self._in_flight and self._outbox.n_pending() == 0

    def state(self) -> PublisherState:
        """Return how it is, for health."""
        return PublisherState(
            connection=self._connection.state(),
            n_in_flight=len(self._in_flight),
            n_confirmed=self._n_confirmed,
            n_resent=self._n_resent,
            n_refused=self._n_refused,
            twin=self._twin,
        )

    # In the network thread: take note, and let the stage's own thread act.

    def on_up(self) -> None:
        """Note that the broker accepted us."""
        self._inbox.put(self._begin_again)

    def on_message(self, delivery: Delivery) -> None:
        """Note a receipt or a status."""
        if self._inbox.qsize() < INBOX_LIMIT:
            self._inbox.put(lambda: self._hear(delivery))

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Note that the broker has a row, or refuses it."""
        self._inbox.put(lambda: self._note_published(ticket, refusal))

    # In the stage's thread.

    def _session(self) -> Session:
        will = messages.status_message(Status(self._topics.station, self._key, online=False))
        wanted = (Subscription(self._topics.logged), Subscription(self._topics.status))
        name = f"fieldstation-{self._key}"
        return Session(name, wanted, will, maximum_packet=MAXIMUM_PACKET)

    def _turn(self) -> None:
        """Wait for something to happen, at most `turn_s`; act on it; send what may be sent."""
        self._connection.check()
        try:
            self._inbox.get(timeout=self._turn_s)()
            while not self._inbox.empty():
                self._inbox.get()()
        except Empty:
            pass
        if not self._has_begun():
            return
        try:
            self._sweep_on()
            self._send_new()
        except self._away as error:
            self._report_outbox(str(error))
        else:
            self._report_outbox("")
        self._see_to_silence()

    def _has_begun(self) -> bool:
        """Return whether there is a connection, and we have begun again on it.

        It is up a moment before we are told so: what went out then would go a second time.
        """
        connection = self._connection.state()
        return connection.up and connection.n_connected == self._n_begun

    def _begin_again(self) -> None:
        """After a connect: say that we are here; what was sent before may be lost."""
        self._n_begun = self._connection.state().n_connected
        online = Status(self._topics.station, self._key, True, self._wall(), self._version)
        self._connection.publish(messages.status_message(online))
        self._in_flight.clear()
        self._sweep = None
        self._patience_s = self._resend_s
        self._sweep_at = 0.0
        soon_s, now = min(self._soon_s, self._resend_s), self._monotonic()
        self._soon_at, self._early_until = now + soon_s, now + soon_s / EARLY
        self._early, self._confirmed_upto = {}, 0
        self._mark = self._cursor

    def _let_sweep(self) -> None:
        self._sweep = None
        self._sweep_at = 0.0
        self._mark = self._cursor

    def _send_new(self) -> None:
        while (free := self._free()) > 0:
            rows = self._outbox.pending(self._cursor, free)
            for row in rows:
                if not self._publish(row):
                    return
                self._cursor = row.sequence
            if len(rows) < free:
                return

    def _sweep_on(self) -> None:
        now = self._monotonic()
        if self._sweep is None and now >= self._soon_at:
            self._soon_at = math.inf
            self._sweep_at, self._mark = now, self._passed_over()
        if self._sweep is None and now >= self._sweep_at:
            self._sweep = _Sweep(upto=self._mark)
        sweep = self._sweep
        if sweep is None:
            return
        if sweep.page and now - sweep.sent_at > self._resend_s:
            if not sweep.answered:  # nobody there: ask again later, from the oldest on
                self._patience_s = min(2 * self._patience_s, LONGEST_RESEND_S)
                self._end_sweep(now)
                return
            sweep.page.clear()
        if not sweep.page and not self._send_page(sweep, now):
            self._end_sweep(now)

    def _passed_over(self) -> int:
        """Return up to where rows sent since the connect must have had their receipt by now.

        Receipts come in the order of the rows: what lies before a confirmed one was not heard. If
        there is none at all, nothing was.
        """
        early, self._early = self._early, {}
        return self._confirmed_upto or max(early.values(), default=0)

    def _send_page(self, sweep: _Sweep, now: float) -> bool:
        """Send the next page again; False when there is none left."""
        if (free := self._free()) <= 0:
            return True
        rows = [r for r in self._outbox.pending(sweep.after, free) if r.sequence <= sweep.upto]
        under_way = {row.id for row in self._in_flight.values()}
        sweep.sent_at, sweep.answered = now, False
        for row in rows:
            if row.id not in under_way:
                if not self._publish(row):
                    return True
                sweep.page.add(row.id)
                self._n_resent += 1
            sweep.after = row.sequence
        return bool(rows)

    def _end_sweep(self, now: float) -> None:
        self._sweep = None
        self._sweep_at = now + self._patience_s
        self._mark = self._cursor

    def _free(self) -> int:
        return min(WINDOW, self._connection.receive_maximum) - len(self._in_flight)

    def _publish(self, row: OutboxRow) -> bool:
        ticket = self._connection.publish(self._below_our_name(row.message))
        if ticket is None:
            return False
        if not self._in_flight:
            self._acknowledged_at = self._monotonic()
        self._in_flight[ticket] = row
        if self._monotonic() < self._early_until and len(self._early) < EARLY_ROWS:
            self._early[row.id] = row.sequence
        return True

    def _below_our_name(self, message: Message) -> Message:
        """Return a message to where the station is now: it may have been renamed since."""
        if message.topic.startswith(f"{messages.ROOT}/{self._level}/"):
            return message
        return replace(message, topic=self._topics.of(message.topic.split("/", 2)[-1]))

    def _note_published(self, ticket: Ticket, refusal: str) -> None:
        row = self._in_flight.pop(ticket, None)  # None: a status, or of an earlier connection
        self._acknowledged_at = self._monotonic()
        if refusal:
            self._connection.report(f"the broker refuses what we publish: {refusal}")
        elif row is not None and not self._needs_receipt(row.message.topic):
            self._confirm([row.id])

    def _needs_receipt(self, topic: str) -> bool:
        return self._trust.receipts and topic.rpartition("/")[2] in WITH_RECEIPT

    def _see_to_silence(self) -> None:
        """Renew a connection on which the broker answers pings but acknowledges nothing."""
        if self._in_flight and self._monotonic() - self._acknowledged_at > self._resend_s:
            self._connection.renew(f"nothing acknowledged for {self._resend_s:g} s")

    def _hear(self, delivery: Delivery) -> None:
        try:
            if delivery.topic == self._topics.logged:
                self._take_receipt(messages.read_receipt(delivery.topic, delivery.payload))
            else:
                self._see_status(messages.read_status(delivery.topic, delivery.payload))
        except Unfit as error:
            self._oddities.say(f"{delivery.topic}: not understood: {error}")

    def _take_receipt(self, receipt: messages.Receipt) -> None:
        if not self._trust.accepts(receipt.logger_id):
            return
        for refusal in receipt.refused:
            self._oddities.say(f"the logger keeps {refusal.id} in quarantine: {refusal.reason}")
        self._n_refused += len(receipt.refused)
        self._confirm([*receipt.ids, *(refusal.id for refusal in receipt.refused)])

    def _confirm(self, ids: Sequence[str]) -> None:
        self._outbox.confirm(ids)
        self._n_confirmed += len(ids)
        known = (self._early.get(confirmed, 0) for confirmed in ids)
        self._confirmed_upto = max(self._confirmed_upto, *known, 0)
        if self._patience_s > self._resend_s:  # somebody is there again: soon, not in 15 minutes
            self._patience_s = self._resend_s
            self._sweep_at = min(self._sweep_at, self._monotonic() + self._resend_s)
        if self._sweep is not None:
            self._sweep.page.difference_update(ids)
            self._sweep.answered = True

    def _see_status(self, status: Status) -> None:
        """Notice a station that goes by our name, and set right what a late will of ours said."""
        if status.station_key != self._key:
            twin = status.station_key if status.online else ""
            if twin and twin != self._twin:
                self._twins.say(
                    f"another station (key {twin}) is called {self._topics.station} too; this one "
                    f"has key {self._key}: give one of them another station.name"
                )
            self._twin = twin
        elif not status.online:
            online = Status(self._topics.station, self._key, True, self._wall(), self._version)
            self._connection.publish(messages.status_message(online))

    def _report_outbox(self, fault: str) -> None:
        if fault and not self._outbox_fault:
            log.warning("the outbox cannot be read: %s; trying again", fault)
        elif self._outbox_fault and not fault:
            log.info("the outbox can be read again")
        self._outbox_fault = fault


def _complain(text: str) -> None:
    log.error("%s", text)
