"""Pictures -> broker, until it has acknowledged them; what a restart interrupts goes again.

Each picture is two messages: `image`, which loggers keep, and `image/png`, retained for display.
The newest that was painted is told last, so it is what the broker keeps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event
from typing import Protocol

from fieldstation.mqtt import messages
from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import (
    BrokerError,
    Connection,
    ConnectionState,
    Delivery,
    Session,
    Ticket,
)
from fieldstation.records import Image, Message, Picture

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Pictures that the broker has not acknowledged: at most 2 MB"""
AGAIN_S = 60.0
"""How often what was sent and not acknowledged is looked for"""
TURN_S = 0.5


class Pictures(Protocol):
    """What is to be published; see store/images.py."""

    def unpublished(self, after: int, limit: int) -> Sequence[tuple[int, Picture]]:
        """Return pictures of higher id than `after`, in order."""
        ...

    def mark_published(self, ids: Sequence[int]) -> None:
        """Note that the broker has them."""
        ...

    def mark_removed(self, ids: Sequence[int]) -> None:
        """Note that their files are gone."""
        ...


class PicturePublisher:
    """A stage: publishes pictures in the order in which they were recorded."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        client_id: str,
        pictures: Pictures,
        read: Callable[[Image], bytes | None],
        display: Callable[[bytes, Picture], bytes],
        *,
        away: tuple[type[Exception], ...],
        again_s: float = AGAIN_S,
        turn_s: float = TURN_S,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            connect: returns the connection to use, or raises BrokerError while the broker's own
                files are not there yet.
            read: returns a picture's PNG, None where its file is gone.
            display: makes the PNG for people.
            away: what pictures and files raise while log or disk are not to be had.
        """
        self._connect = connect
        self._client_id = client_id
        self._pictures = pictures
        self._read = read
        self._display = display
        self._away = away
        self._again_s = again_s
        self._turn_s = turn_s
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._connection: Connection | None = None
        self._in_flight: dict[Ticket, int] = {}
        self._acknowledged: list[int] = []
        self._cursor = 0
        self._again_at = 0.0
        self._n_begun = 0
        self._fault = ""

    def run(self, stop: Event, beat: Callable[[], None]) -> None:
        """Publish until `stop`."""
        connection = self._wait_for_broker(stop, beat)
        if connection is None:
            return
        self._connection = connection
        with connection.open(Session(self._client_id), self):
            while not stop.is_set():
                self._turn(connection)
                beat()

    def wake(self) -> None:
        """Look for new pictures now; from any thread."""
        self._inbox.put(lambda: None)

    def state(self) -> ConnectionState:
        """Return how it is."""
        if self._connection is None:
            return ConnectionState(False, self._fault, 0)
        state = self._connection.state()
        return ConnectionState(state.up, state.fault or self._fault, state.n_connected)

    # In the network thread.

    def on_up(self) -> None:
        """Note that the broker accepted us: it may know nothing of what was in flight."""
        self._inbox.put(self._begin_again)

    def on_message(self, delivery: Delivery) -> None:
        """Nothing is subscribed to."""

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Note that the broker has a message, or refuses it."""
        self._inbox.put(lambda: self._note_published(ticket, refusal))

    # In the stage's thread.

    def _wait_for_broker(self, stop: Event, beat: Callable[[], None]) -> Connection | None:
        backoff = Backoff()
        while not stop.is_set():
            try:
                return self._connect()
            except BrokerError as error:
                self._report(str(error))
            ends_at = time.monotonic() + backoff.next()
            while time.monotonic() < ends_at and not stop.is_set():
                stop.wait(self._turn_s)
                beat()
        return None

    def _turn(self, connection: Connection) -> None:
        """Wait for something to happen, at most `turn_s`; act on it; send what may be sent."""
        connection.check()
        try:
            self._inbox.get(timeout=self._turn_s)()
            while not self._inbox.empty():
                self._inbox.get()()
        except Empty:
            pass
        try:
            self._mark()
            if self._has_begun(connection):
                self._send(connection)
        except self._away as error:
            self._report(str(error))
        else:
            self._report("")

    def _has_begun(self, connection: Connection) -> bool:
        """Return whether it is up, and we have begun again on it.

        It is up a moment before we are told so: what went out then would go a second time.
        """
        state = connection.state()
        return state.up and state.n_connected == self._n_begun

    def _begin_again(self) -> None:
        self._n_begun = self._connection.state().n_connected if self._connection else 0
        self._in_flight.clear()
        self._cursor = 0

    def _send(self, connection: Connection) -> None:
        now = time.monotonic()
        if now >= self._again_at and not self._in_flight and not self._acknowledged:
            self._cursor, self._again_at = 0, now + self._again_s
        free = AT_ONCE - len(set(self._in_flight.values()))
        if free <= 0:
            return
        for number, picture in self._pictures.unpublished(self._cursor, free):
            if not self._publish(connection, number, picture):
                return
            self._cursor = number

    def _publish(self, connection: Connection, number: int, picture: Picture) -> bool:
        """Send a picture's two messages; False where the connection took them not."""
        png = self._read(picture.image)
        if png is None:
            log.warning("%s is gone or was changed: not published", picture.image.file)
            self._pictures.mark_removed([number])
            return True
        try:
            told = (
                messages.image_message(picture, png),
                messages.display_message(picture.image.station, self._display(png, picture)),
            )
        except ValueError as error:  # of a generator whose pictures are too large for the wire
            log.error("%s is not published: %s", picture.image.file, error)
            self._acknowledged.append(number)
            return True
        return self._send_all(connection, number, told)

    def _send_all(self, connection: Connection, number: int, told: Sequence[Message]) -> bool:
        for message in told:
            ticket = connection.publish(message)
            if ticket is None:
                self._forget(number)
                return False
            self._in_flight[ticket] = number
        return True

    def _forget(self, number: int) -> None:
        self._in_flight = {t: n for t, n in self._in_flight.items() if n != number}

    def _note_published(self, ticket: Ticket, refusal: str) -> None:
        number = self._in_flight.pop(ticket, None)
        if number is None:  # of an earlier connection
            return
        if refusal:  # tried again with the next look
            self._forget(number)
            if self._connection is not None:
                self._connection.report(f"the broker refuses our pictures: {refusal}")
        elif number not in self._in_flight.values():
            self._acknowledged.append(number)

    def _mark(self) -> None:
        if self._acknowledged:
            self._pictures.mark_published(self._acknowledged)
            self._acknowledged = []

    def _report(self, fault: str) -> None:
        if fault and not self._fault:
            log.warning("pictures are not published: %s; trying again", fault)
        elif self._fault and not fault:
            log.info("pictures are published again")
        self._fault = fault
