"""Outbox, log and listener that live in memory, and the values to fill them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import (
    Connection,
    ConnectionState,
    Delivery,
    Session,
    Ticket,
)
from fieldstation.records import Detection, Interval, Message, OutboxRow, Quarantined

KEY = "a1b2c3d4e5f60718"
OWN = "own-logger"
TURN_S = 0.05


def detection(number: int = 1, station: str = "garden", **changes: object) -> Detection:
    """Return the `number`th detection of a station."""
    fields: dict[str, object] = {
        "event_id": str(UUID(int=number)),
        "station": station,
        "station_key": KEY,
        "sequence": number,
        "started_at": 1_777_600_000_000_000 + number,
        "ended_at": 1_777_600_003_000_000 + number,
        "timezone": "Europe/Berlin",
        "scientific_name": "Fringilla coelebs",
        "common_name": "Chaffinch",
        "probability": 0.91,
        "threshold": 0.5,
        "encoder_id": "0123456789abcdef",
    }
    return Detection(**(fields | changes))  # type: ignore[arg-type]


class Outbox:
    """Rows in memory; counts the largest page it was asked for."""

    def __init__(self, rows: Iterable[OutboxRow] = ()) -> None:
        self._rows = {row.id: row for row in rows}
        self._lock = threading.Lock()
        self.largest_page = 0
        self.n_asked = 0
        self.fault: Exception | None = None
        self.confirmed: Counter[str] = Counter()

    @classmethod
    def of(cls, n: int, station: str = "garden") -> Outbox:
        """Return an outbox in which `n` detections wait."""
        found = cls()
        for number in range(1, n + 1):
            found.add(detection(number, station))
        return found

    def add(self, d: Detection) -> None:
        self.add_message(d.event_id, d.sequence, messages.detection_message(d))

    def add_message(self, name: str, sequence: int, message: Message) -> None:
        with self._lock:
            self._rows[name] = OutboxRow(sequence, name, message)

    def pending(self, after: int, limit: int) -> list[OutboxRow]:
        self.n_asked += 1
        if self.fault is not None:
            raise self.fault
        with self._lock:
            rows = sorted(
                (row for row in self._rows.values() if row.sequence > after),
                key=lambda row: row.sequence,
            )
        self.largest_page = max(self.largest_page, limit)
        return rows[:limit]

    def n_pending(self) -> int:
        return len(self._rows)

    def confirm(self, ids: Sequence[str]) -> None:
        with self._lock:
            for name in ids:
                self._rows.pop(name, None)
                self.confirmed[name] += 1


class Log:
    """A log in memory with the real one's promises; can be away, or die before it commits."""

    def __init__(self) -> None:
        self.rows: dict[str, Detection] = {}
        self.n_offered: Counter[str] = Counter()
        self.intervals: dict[str, list[Interval]] = {}
        self.quarantined: list[Quarantined] = []
        self.fault: BaseException | None = None

    def record(self, detections: Sequence[Detection], received_at: int) -> list[str]:
        if self.fault is not None:
            raise self.fault
        return [self._record(found) for found in detections]

    def _record(self, found: Detection) -> str:
        self.n_offered[found.event_id] += 1
        first = self.rows.setdefault(found.event_id, found)
        if first is found:
            return "new"
        return "same" if first == found else "conflict"

    def record_coverage(
        self, station: str, station_key: str, intervals: Iterable[Interval]
    ) -> None:
        self.intervals.setdefault(station, []).extend(intervals)

    def quarantine(self, *messages: Quarantined) -> None:
        self.quarantined += messages


class Listener:
    """Keeps what a connection tells it."""

    def __init__(self) -> None:
        self.n_up = 0
        self.deliveries: list[Delivery] = []
        self.published: list[tuple[Ticket, str]] = []

    def on_up(self) -> None:
        self.n_up += 1

    def on_message(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        self.published.append((ticket, refusal))


class Stage:
    """What `run` of a stage needs, and what it leaves behind."""

    def __init__(self, stage: Any) -> None:
        self._stop = threading.Event()
        self.n_beats = 0
        self.error: BaseException | None = None
        self._run: Callable[[threading.Event, Callable[[], None]], None] = stage.run
        self._wake: Callable[[], None] = getattr(stage, "wake", lambda: None)
        self._thread = threading.Thread(target=self._live, daemon=True)

    def _live(self) -> None:
        try:
            self._run(self._stop, self._beat)
        except BaseException as error:  # noqa: BLE001 (the top of a thread)
            self.error = error

    def _beat(self) -> None:
        self.n_beats += 1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the stage does not stop"


@contextmanager
def running(*stages: object) -> Iterator[list[Stage]]:
    """Run stages in threads of their own; an exception that one let out is raised here."""
    started = [Stage(stage) for stage in stages]
    for stage in started:
        stage.start()
    try:
        yield started
    finally:
        for stage in reversed(started):
            stage.stop()
    for stage in started:
        if stage.error is not None:
            raise stage.error


@contextmanager
def listening(connection: Connection, session: Session) -> Iterator[Listener]:
    """Open a connection and wait until it is up and its subscriptions are answered."""
    listener = Listener()
    with connection.open(session, listener):
        until(lambda: listener.n_up)
        yield listener


def until(what: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until something is true; fail when it does not become so."""
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class FakeConnection:
    """A broker that takes what it is given and acknowledges when told to."""

    def __init__(self) -> None:
        self.up = False
        self.receive_maximum = 65_535
        self.published: list[Message] = []
        self.reports: list[str] = []
        self.renewed: list[str] = []
        self.acknowledge_at_once = False
        self._listener: Listener | None = None
        self._waiting: list[Ticket] = []
        self._lock = threading.Lock()
        self._life = 0

    @contextmanager
    def open(self, session: Session, listener: Listener) -> Iterator[None]:
        self.session = session
        self._listener = listener
        yield

    def check(self) -> None:
        pass

    def state(self) -> ConnectionState:
        return ConnectionState(self.up, "", self._life)

    def report(self, fault: str) -> None:
        self.reports.append(fault)

    def renew(self, reason: str) -> None:
        self.renewed.append(reason)
        self.up = False

    def publish(self, message: Message) -> Ticket | None:
        if not self.up:
            return None
        ticket = (self._life, len(self.published) + 1)
        self._waiting.append(ticket)  # before it is seen in `published`: then it can be answered
        self.published.append(message)
        if self.acknowledge_at_once:
            self.acknowledge_all()
        return ticket

    def connect(self) -> None:
        """Come up, as for the first time or after a loss."""
        self.come_up()
        self.tell_up()

    def come_up(self) -> None:
        """Come up; nobody was told yet."""
        until(lambda: self._listener is not None)
        with self._lock:
            self._life += 1
            self._waiting.clear()
        self.up = True

    def tell_up(self) -> None:
        """Tell the listener that it is up."""
        assert self._listener is not None
        self._listener.on_up()

    def acknowledge_all(self, refusal: str = "") -> None:
        """Answer what was published and not answered by now; what the answers bring forth waits."""
        assert self._listener is not None
        with self._lock:  # the publisher's thread answers itself where that is asked
            answered = self._waiting[:]
            del self._waiting[: len(answered)]
        for ticket in answered:
            self._listener.on_published(ticket, refusal)

    def deliver(self, message: Message) -> None:
        """Hand a message to the listener."""
        assert self._listener is not None
        self._listener.on_message(
            Delivery(message.topic, message.payload, message.retain, (self._life, 1), message.qos)
        )

    def sequences(self) -> list[int]:
        """Return the sequences of the detections published so far."""
        return [
            messages.read_detection(m.topic, m.payload).sequence
            for m in self.published
            if m.topic.endswith("/detection")
        ]
