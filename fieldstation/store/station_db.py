"""station.db: what one running station must not lose before the log has it.

A `StationStore` may be read from any thread and any process; the running station writes it from
one thread only (`writer.StoreThread`). Each writing method is one transaction; `transaction()`
makes one of many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from fieldstation.clock import US_PER_S, Clock, SystemClock
from fieldstation.records import (
    FILE_RUN,
    ClipState,
    Event,
    FileOrigin,
    Hearing,
    Interval,
    Label,
    Message,
    OutboxRow,
)
from fieldstation.store.database import Database, open_file
from fieldstation.store.schema import bring_up_to_date
from fieldstation.store.station_tables import COVERAGE, EVENTS, META, OUTBOX, SCHEMA

TIMEOUT_S = 1.0
"""Wait for another process's lock; the thread that writes tries again, so it need not be long"""
KEEP_DELIVERED_DAYS = 7
"""Events stay so long after their receipt, coverage after its end, for whoever asks this station"""
NAME = "name"
"""Key in `meta` of what the station called itself at its last start"""
CLOCK = SystemClock()

Compose = Callable[[int], Message]
"""Outbox sequence -> the message that will carry it"""

LAST_SEQUENCE = text("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
SEQUENCE_OF = select(OUTBOX.c.sequence).where(OUTBOX.c.id == bindparam("id"))
CONFIRM = (
    update(OUTBOX)
    .where(OUTBOX.c.id == bindparam("outbox_id"), OUTBOX.c.confirmed_at.is_(None))
    .values(confirmed_at=bindparam("now"))
)
NEW_EVENT = insert(EVENTS).on_conflict_do_nothing(index_elements=["id"])
UNTOLD = (
    select(EVENTS)
    .outerjoin(OUTBOX, OUTBOX.c.id == EVENTS.c.id)
    .where(OUTBOX.c.id.is_(None))
    .order_by(EVENTS.c.started_at)
)
PENDING = select(
    OUTBOX.c.sequence,
    OUTBOX.c.id,
    OUTBOX.c.topic,
    OUTBOX.c.payload,
    OUTBOX.c.retain,
    OUTBOX.c.qos,
).where(OUTBOX.c.confirmed_at.is_(None))
INTERVALS = select(
    COVERAGE.c.run_id,
    COVERAGE.c.started_at,
    COVERAGE.c.duration_s,
    COVERAGE.c.state,
    COVERAGE.c.cause,
)


@dataclass(frozen=True, slots=True)
class Clip:
    """What became of an event's recording."""

    state: ClipState
    file: str | None
    """Name below the clip folder"""


class StationTransaction:
    """Writes to station.db that are committed together or not at all."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def record_event(
        self, event: Event, compose: Compose, clip: ClipState = ClipState.WAITING
    ) -> int:
        """Write an event and its message; return the message's place in the station's order.

        An id that is there already changes nothing and returns the place it has; one whose message
        is lost gets another.
        """
        known = self._sequence_of(str(event.id))
        if known is not None:
            return known
        sequence = self._next_sequence()
        self._connection.execute(NEW_EVENT, _event_values(event, clip))
        self._insert_message(sequence, str(event.id), compose(sequence))
        return sequence

    def post_message(self, id: str, message: Message) -> int:
        """Write a message that is not an event's; the same id again changes nothing."""
        known = self._sequence_of(id)
        if known is not None:
            return known
        sequence = self._next_sequence()
        self._insert_message(sequence, id, message)
        return sequence

    def confirm(self, ids: Iterable[str]) -> int:
        """Mark messages as received by the log; return how many had been waiting."""
        now = self._clock.wall()
        marks = [{"outbox_id": str(id), "now": now} for id in ids]
        return self._connection.execute(CONFIRM, marks).rowcount if marks else 0

    def forget_receipts(self) -> int:
        """Let all that a log keeps wait again: the log lost rows; return how many had receipts."""
        kept = OUTBOX.c.topic.like("%/detection") | OUTBOX.c.topic.like("%/coverage")
        waiting = update(OUTBOX).where(kept, OUTBOX.c.confirmed_at.is_not(None))
        return self._connection.execute(waiting.values(confirmed_at=None)).rowcount

    def set_clip(self, event_id: UUID, state: ClipState, file: str | None = None) -> bool:
        """Note what became of an event's recording; False where there is no such event."""
        values = {"clip_state": state.value, "clip_file": file}
        changed = update(EVENTS).where(EVENTS.c.id == str(event_id)).values(values)
        return self._connection.execute(changed).rowcount == 1

    def settle_clips(self, find: Callable[[str], str | None]) -> int:
        """Decide on every clip still waited for: the run that held its sound is over.

        Args:
            find: event id -> the clip that a killed run wrote and could not note any more, or None.

        Returns:
            how many are missing.
        """
        query = select(EVENTS.c.id).where(EVENTS.c.clip_state == ClipState.WAITING.value)
        waiting = list(self._connection.execute(query).scalars())
        files = {event_id: find(event_id) for event_id in waiting}
        for event_id, file in files.items():
            self.set_clip(UUID(event_id), ClipState.WRITTEN if file else ClipState.MISSING, file)
        return sum(file is None for file in files.values())

    def record_intervals(self, intervals: Iterable[Interval]) -> None:
        """Append intervals to the ledger; one that is there (run, start, state) only grows."""
        rows = [_interval_values(interval) for interval in intervals]
        statement = insert(COVERAGE)
        grown = statement.on_conflict_do_update(
            index_elements=["run_id", "started_at", "state"],
            set_={"duration_s": statement.excluded.duration_s, "cause": statement.excluded.cause},
            where=statement.excluded.duration_s > COVERAGE.c.duration_s,
        )
        if rows:
            self._connection.execute(grown, rows)

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        statement = insert(META).values(key=key, value=value)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["key"], set_={"value": value})
        )

    def prune(self, before: int) -> int:
        """Delete what was confirmed before an instant, and coverage that ended before it.

        Returns:
            messages deleted; their events go with them.
        """
        self._connection.execute(delete(COVERAGE).where(_ended_at() < before))
        return self._drop(select(OUTBOX.c.id).where(OUTBOX.c.confirmed_at < before))

    def drop_delivered(self, limit: int) -> int:
        """Delete the oldest of what was confirmed, but for events whose clip is still to be noted.

        Returns:
            messages deleted; their events go with them.
        """
        waiting = select(EVENTS.c.id).where(EVENTS.c.clip_state == ClipState.WAITING.value)
        delivered = select(OUTBOX.c.id).where(
            OUTBOX.c.confirmed_at.is_not(None), OUTBOX.c.id.not_in(waiting)
        )
        return self._drop(delivered.order_by(OUTBOX.c.sequence).limit(limit))

    def _drop(self, ids: Select[tuple[str]]) -> int:
        self._connection.execute(delete(EVENTS).where(EVENTS.c.id.in_(ids)))
        return self._connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(ids))).rowcount

    def _sequence_of(self, id: str) -> int | None:
        return self._connection.execute(SEQUENCE_OF, {"id": id}).scalar()

    def _next_sequence(self) -> int:
        # Ours alone until the commit: the transaction began with BEGIN IMMEDIATE.
        last: int | None = self._connection.execute(LAST_SEQUENCE).scalar()
        return (last or 0) + 1

    def _insert_message(self, sequence: int, id: str, message: Message) -> None:
        row = {
            "sequence": sequence,
            "id": id,
            "topic": message.topic,
            "payload": message.payload,
            "retain": message.retain,
            "qos": message.qos,
            "created_at": self._clock.wall(),
        }
        self._connection.execute(insert(OUTBOX), row)


class StationStore:
    """A station's own database."""

    def __init__(
        self,
        path: Path,
        clock: Clock = CLOCK,
        *,
        timeout_s: float = TIMEOUT_S,
        readonly: bool = False,
    ) -> None:
        """Open the file, making it or upgrading its tables where needed.

        Raises:
            NewerDatabase: a newer fieldstation made it.
            StoreError: it cannot be used; the text says why.
        """
        self.database: Database = open_file(path, timeout_s=timeout_s, readonly=readonly)
        self._clock = clock
        bring_up_to_date(self.database, SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[StationTransaction]:
        """Give a transaction; it is on the disk when the block has ended.

        Raises:
            StoreUnavailable: the disk or the lock is not to be had; nothing was written.
        """
        with self.database.write() as connection:
            yield StationTransaction(connection, self._clock)

    def record_event(
        self, event: Event, compose: Compose, clip: ClipState = ClipState.WAITING
    ) -> int:
        """Write an event with its message; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.record_event(event, compose, clip)

    def post_message(self, id: str, message: Message) -> int:
        """Write a message that is not an event's; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.post_message(id, message)

    def confirm(self, ids: Iterable[str]) -> int:
        """Mark messages as received by the log; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.confirm(ids)

    def set_clip(self, event_id: UUID, state: ClipState, file: str | None = None) -> bool:
        """Note what became of an event's recording; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.set_clip(event_id, state, file)

    def settle_clips(self, find: Callable[[str], str | None]) -> int:
        """Decide on clips that an ended run still waited for; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.settle_clips(find)

    def record_intervals(self, intervals: Iterable[Interval]) -> None:
        """Append to the ledger, or let its open interval grow; see StationTransaction."""
        with self.transaction() as transaction:
            transaction.record_intervals(intervals)

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        with self.transaction() as transaction:
            transaction.set_meta(key, value)

    def prune(self, before: int) -> int:
        """Delete what was delivered before an instant; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.prune(before)

    def drop_delivered(self, limit: int) -> int:
        """Delete the oldest of what was confirmed; see StationTransaction."""
        with self.transaction() as transaction:
            return transaction.drop_delivered(limit)

    def n_bytes(self) -> int:
        """Return how much of the file is in use: what was deleted, the next rows take."""
        with self.database.read() as connection:
            pages, free, size = (
                int(connection.exec_driver_sql(statement).scalar_one())
                for statement in ("PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA page_size")
            )
        return (pages - free) * size

    def pending(self, after: int = 0, limit: int = 100) -> list[OutboxRow]:
        """Return messages not yet confirmed, with a sequence above `after`, in order."""
        rows = PENDING.where(OUTBOX.c.sequence > after).order_by(OUTBOX.c.sequence).limit(limit)
        with self.database.read() as connection:
            return [_outbox_row(row) for row in connection.execute(rows)]

    def untold(self, limit: int = 1_000) -> list[Event]:
        """Return events that have no message, as after the loss of a page, oldest first."""
        with self.database.read() as connection:
            return [_event(row) for row in connection.execute(UNTOLD.limit(limit))]

    def n_pending(self) -> int:
        """Return how many messages are not yet confirmed."""
        waiting = select(func.count()).select_from(OUTBOX).where(OUTBOX.c.confirmed_at.is_(None))
        with self.database.read() as connection:
            return int(connection.execute(waiting).scalar_one())

    def waiting(self) -> Iterator[OutboxRow]:
        """Yield the messages of events that are not yet confirmed, in order."""
        rows = PENDING.join(EVENTS, EVENTS.c.id == OUTBOX.c.id).order_by(OUTBOX.c.sequence)
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=500).execute(rows):
                yield _outbox_row(row)

    def clips(self, event_ids: Iterable[str]) -> dict[str, Clip]:
        """Return what became of the recordings of those events that station.db still holds."""
        columns = select(EVENTS.c.id, EVENTS.c.clip_state, EVENTS.c.clip_file)
        wanted = columns.where(EVENTS.c.id.in_(list(event_ids)))
        with self.database.read() as connection:
            return {
                row.id: Clip(ClipState(row.clip_state), row.clip_file)
                for row in connection.execute(wanted)
            }

    def intervals(self, since: int, until: int) -> list[Interval]:
        """Return the ledger's intervals that touch [since, until), in the order they began."""
        touching = INTERVALS.where(COVERAGE.c.started_at < until, _ended_at() > since)
        return self._intervals(touching.order_by(COVERAGE.c.sequence))

    def last_interval(self) -> Interval | None:
        """Return the interval that a live run began last; None where none ever did.

        What recordings hold stands at their own time, which is none of the station's.
        """
        steps = COVERAGE.c.state == Hearing.CLOCK_STEP.value
        files = COVERAGE.c.run_id.startswith(FILE_RUN, autoescape=True)
        found = self._intervals(
            INTERVALS.where(~steps, ~files).order_by(COVERAGE.c.sequence.desc()).limit(1)
        )
        return found[0] if found else None

    def meta(self, key: str) -> str | None:
        """Return the value under a key, or None where nothing was remembered."""
        with self.database.read() as connection:
            value = connection.execute(select(META.c.value).where(META.c.key == key)).scalar()
        return None if value is None else str(value)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def _intervals(self, query: Select[Any]) -> list[Interval]:
        with self.database.read() as connection:
            return [
                Interval(row.run_id, row.started_at, row.duration_s, Hearing(row.state), row.cause)
                for row in connection.execute(query)
            ]


def _ended_at() -> ColumnElement[Any]:
    """Return the SQL for an interval's end; a clock step has none of its own, just its instant."""
    is_step = COVERAGE.c.state == Hearing.CLOCK_STEP.value
    return COVERAGE.c.started_at + case((is_step, 1), else_=COVERAGE.c.duration_s * US_PER_S)


def _event_values(event: Event, clip: ClipState) -> dict[str, object]:
    file = event.file
    return {
        "id": str(event.id),
        "scientific_name": event.label.scientific_name,
        "common_name": event.label.common_name,
        "started_at": event.started_at,
        "ended_at": event.ended_at,
        "probability": float(event.probability),
        "threshold": float(event.threshold),
        "encoder_id": event.encoder_id,
        "n_windows": event.n_windows,
        "embedding": None if event.embedding is None else event.embedding.astype("<f2").tobytes(),
        "file_path": file.path if file else None,
        "content_hash": file.content_hash if file else None,
        "first_sample": file.first_sample if file else None,
        "clip_state": clip.value,
    }


def _event(row: Any) -> Event:
    """Return what `_event_values` wrote."""
    is_file = row.content_hash is not None
    return Event(
        id=UUID(row.id),
        label=Label(row.scientific_name, row.common_name),
        started_at=row.started_at,
        ended_at=row.ended_at,
        probability=row.probability,
        threshold=row.threshold,
        encoder_id=row.encoder_id,
        n_windows=row.n_windows,
        embedding=None
        if row.embedding is None
        else np.frombuffer(row.embedding, "<f2").astype(np.float32),
        file=FileOrigin(row.file_path, row.content_hash, row.first_sample) if is_file else None,
    )


def _interval_values(interval: Interval) -> dict[str, object]:
    return {
        "run_id": interval.run_id,
        "started_at": interval.started_at,
        "duration_s": interval.duration_s,
        "state": interval.state.value,
        "cause": interval.cause,
    }


def _outbox_row(row: Any) -> OutboxRow:
    message = Message(row.topic, row.payload, row.retain, row.qos)
    return OutboxRow(row.sequence, row.id, message)
