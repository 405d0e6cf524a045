"""The one thread that writes station.db.

Anyone posts; nobody waits for the disk. What is posted while a transaction runs goes together into
the next. While the disk refuses, everything is kept in memory, in order, and tried again: an event
is never dropped. Only receipts may be, since a logger confirms again whatever is sent again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from fieldstation.records import ClipState, Event, Interval, Message
from fieldstation.store.errors import DamagedDatabase, StoreError, StoreUnavailable
from fieldstation.store.keeper import Keeper
from fieldstation.store.station_db import Compose, StationStore, StationTransaction

log = logging.getLogger(__name__)

BATCH = 500
"""Most requests in one transaction"""
MAX_RECEIPTS_WAITING = 10_000
"""Posts of receipts kept while the disk is away; later ones are dropped"""
WAIT_S = 0.5
"""Longest wait between two beats"""
FINISH_S = 20.0
"""Longest try to write what is left when the station stops"""
REFUSED_S = 2.0
"""Longest wait for a disk that refuses just now"""
NEAR, AGAIN = 0.8, 0.95
"""Of the limit of the file: from here on it is told; below this a full one has room again"""
DROPPED_AT_ONCE = 2_000
"""Delivered events that go at the limit, in one transaction"""
BYTES_PER_MB = 1_000_000
LOOK_AGAIN_S = 5.0
"""After a file could not be mended"""
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 15.0
NOT_WRITABLE = (DBAPIError, ValueError, TypeError, LookupError, ArithmeticError)
"""What one request can raise by itself: its message cannot be composed, a value does not fit"""


class Request(Protocol):
    """Something to write."""

    def apply(self, transaction: StationTransaction) -> object:
        """Write it; called again where the transaction failed."""
        ...


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Write an event and its message."""

    event: Event
    compose: Compose
    clip: ClipState

    def apply(self, transaction: StationTransaction) -> object:
        """Write it."""
        return transaction.record_event(self.event, self.compose, self.clip)


@dataclass(frozen=True, slots=True)
class PostMessage:
    """Write a message that is not an event's."""

    id: str
    message: Message

    def apply(self, transaction: StationTransaction) -> object:
        """Write it."""
        return transaction.post_message(self.id, self.message)


@dataclass(frozen=True, slots=True)
class Confirm:
    """Mark messages as received by the log."""

    ids: tuple[str, ...]

    def apply(self, transaction: StationTransaction) -> object:
        """Mark them."""
        return transaction.confirm(self.ids)


@dataclass(frozen=True, slots=True)
class ForgetReceipts:
    """Let what the log confirmed wait again."""

    def apply(self, transaction: StationTransaction) -> object:
        """Forget them."""
        return transaction.forget_receipts()


@dataclass(frozen=True, slots=True)
class RecordInterval:
    """Append an interval to the ledger, or let it grow."""

    interval: Interval

    def apply(self, transaction: StationTransaction) -> None:
        """Write it."""
        transaction.record_intervals([self.interval])

    def grows_from(self, earlier: Request) -> bool:
        """Return whether an earlier request says the same, with a shorter duration."""
        return isinstance(earlier, RecordInterval) and _key(earlier.interval) == _key(self.interval)


@dataclass(frozen=True, slots=True)
class SetClip:
    """Note what became of an event's recording."""

    event_id: UUID
    state: ClipState
    file: str | None

    def apply(self, transaction: StationTransaction) -> object:
        """Note it."""
        return transaction.set_clip(self.event_id, self.state, self.file)


@dataclass(frozen=True, slots=True)
class Prune:
    """Delete what was delivered before an instant."""

    before: int

    def apply(self, transaction: StationTransaction) -> object:
        """Delete it."""
        return transaction.prune(self.before)


@dataclass(frozen=True, slots=True)
class WriterState:
    """How the writing goes, for health."""

    n_waiting: int
    """Requests not yet on the disk"""
    n_receipts_dropped: int
    fault: str | None
    """Why nothing can be written just now"""
    n_bytes: int
    """Of station.db in use, when it was last written"""
    shortage: str
    """What to do about a file that is nearly full, or full; empty while there is room"""


class StoreThread:
    """A stage: takes requests from any thread and commits them in order."""

    def __init__(
        self,
        store: StationStore,
        on_committed: Callable[[], None] = lambda: None,
        finish_s: float = FINISH_S,
        max_bytes: int | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Wrap a store.

        Args:
            store: written by this thread alone from now on.
            on_committed: called in this thread after each commit (wakes the publisher).
            finish_s: how long `run` goes on writing after it was told to stop.
            keeper: puts back the file that was removed or damaged; None: then that is an error.
            max_bytes: beyond it `has_room` is False until the log has confirmed; what is posted
                nevertheless is written.
        """
        self._store = store
        self._on_committed = on_committed
        self._finish_s = finish_s
        self._max_bytes = max_bytes
        self._keeper = keeper
        self._n_bytes: int | None = None
        self._is_full = False
        self._queue: deque[Request] = deque()
        self._changed = threading.Condition()
        self._n_in_transaction = 0
        self._n_receipts_waiting = 0
        self._n_receipts_dropped = 0
        self._fault: StoreError | None = None
        self._retry_s = FIRST_RETRY_S
        self._retry_at = 0.0
        self._look_at = 0.0

    def post_event(
        self, event: Event, compose: Compose, clip: ClipState = ClipState.WAITING
    ) -> None:
        """Take an event over; `compose` is called in its transaction, perhaps more than once."""
        self._post(RecordEvent(event, compose, clip))

    def post_message(self, id: str, message: Message) -> None:
        """Take a message over that is not an event's."""
        self._post(PostMessage(id, message))

    def post_confirm(self, ids: Iterable[str]) -> None:
        """Take receipts over."""
        with self._changed:
            if self._n_receipts_waiting >= MAX_RECEIPTS_WAITING:
                self._n_receipts_dropped += 1
                return
            self._n_receipts_waiting += 1
        self._post(Confirm(tuple(ids)))

    def post_forget_receipts(self) -> None:
        """Have everything told again that is still here: the log has lost rows."""
        self._post(ForgetReceipts())

    def post_interval(self, interval: Interval) -> None:
        """Take an interval over; one that only grew replaces itself in the queue."""
        request = RecordInterval(interval)
        with self._changed:
            is_free = len(self._queue) > self._n_in_transaction
            if is_free and request.grows_from(self._queue[-1]):
                self._queue[-1] = request
                return
        self._post(request)

    def post_clip_state(self, event_id: UUID, state: ClipState, file: str | None = None) -> None:
        """Take over what became of an event's recording."""
        self._post(SetClip(event_id, state, file))

    def post_prune(self, before: int) -> None:
        """Ask for the deletion of what was delivered before an instant."""
        self._post(Prune(before))

    def suspect(self, damage: str) -> None:
        """Take note that a check has found damage: the keeper restores the file."""
        log.error("%s", damage)
        self._store.database.damaged.set()

    def state(self) -> WriterState:
        """Return how the writing goes."""
        with self._changed:
            fault = None if self._fault is None else str(self._fault)
            return WriterState(
                n_waiting=len(self._queue),
                n_receipts_dropped=self._n_receipts_dropped,
                fault=fault,
                n_bytes=self._n_bytes or 0,
                shortage=shortage(self._n_bytes or 0, self._max_bytes, self._is_full),
            )

    def has_room(self) -> bool:
        """Return whether the file is below its limit: who hears what it cannot keep is deaf."""
        return not self._is_full

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that was posted is on the disk; return whether it is.

        A disk that refused is tried again at once, and waited for a short time.
        """
        with self._changed:
            if self._fault is not None:
                timeout_s = min(timeout_s, REFUSED_S)
                self._try_now()
            return self._changed.wait_for(lambda: not self._queue, timeout_s)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Write until told to stop, then write what is left."""
        try:
            while not stop.is_set():
                beat()
                self._look_after_file(beat)
                self.step(WAIT_S)
        finally:
            self._finish(beat)

    def step(self, timeout_s: float) -> int:
        """Commit one batch, waiting for something to write; return how many requests it held.

        A disk or lock that is not to be had is noted, and no later step tries before its time.
        """
        batch = self._wait(timeout_s)
        if not batch and self._n_bytes is not None:
            return 0
        try:
            if batch:
                self._write(batch)
            self._keep_to_limit()
        except StoreUnavailable as fault:
            self._note_fault(fault)
            return 0
        except DamagedDatabase as fault:
            if self._keeper is None:
                raise
            self._note_fault(fault)
            return 0
        finally:
            self._n_in_transaction = 0
        if batch:
            self._on_committed()
        return len(batch)

    def _look_after_file(self, beat: Callable[[], None]) -> None:
        """See that the file is in its place and whole; what cannot be mended now is tried again."""
        if self._keeper is None or time.monotonic() < self._look_at:
            return
        try:
            self._keeper.look(beat)
        except StoreUnavailable as fault:
            self._note_fault(fault)
            self._look_at = time.monotonic() + LOOK_AGAIN_S

    def _post(self, request: Request) -> None:
        with self._changed:
            self._queue.append(request)
            self._changed.notify_all()

    def _wait(self, timeout_s: float) -> list[Request]:
        """Wait for requests, and for the time of the next try; return the next batch."""
        with self._changed:
            if self._fault is not None:
                timeout_s = min(timeout_s, max(0.0, self._retry_at - time.monotonic()))
            is_due = self._changed.wait_for(self._is_due, timeout_s)
            batch = list(islice(self._queue, BATCH)) if is_due else []
            self._n_in_transaction = len(batch)
            return batch

    def _is_due(self) -> bool:
        return bool(self._queue) and time.monotonic() >= self._retry_at

    def _keep_to_limit(self) -> None:
        """Measure the file; at its limit delivered events go early, and if that is too little,
        there is no room."""
        n_bytes = self._store.n_bytes()
        if self._max_bytes is None:
            self._n_bytes = n_bytes
            return
        if n_bytes > AGAIN * self._max_bytes:
            self._store.drop_delivered(DROPPED_AT_ONCE)
            n_bytes = self._store.n_bytes()
        was_full = self._is_full
        # Before it is told in `state`: who reads there that it is full finds no room.
        self._is_full = n_bytes > (AGAIN if was_full else 1) * self._max_bytes
        self._n_bytes = n_bytes
        if self._is_full and not was_full:
            log.error("%s", shortage(n_bytes, self._max_bytes, True))
        elif was_full and not self._is_full:
            log.warning("%s has room again: the station hears", self._store.database.name)

    def _write(self, batch: list[Request]) -> None:
        try:
            self._commit(batch)
        except NOT_WRITABLE:
            self._commit_singly(batch)

    def _commit(self, batch: list[Request]) -> None:
        """Write the queue's first requests in one transaction, then forget them."""
        with self._store.transaction() as transaction:
            for request in batch:
                request.apply(transaction)
        self._forget(len(batch))
        self._note_recovery()

    def _commit_singly(self, batch: list[Request]) -> None:
        """Write each request in its own transaction: one that cannot be written costs no other.

        Raises:
            the first error of a request, after all were tried.
        """
        errors: list[Exception] = []
        for request in batch:
            try:
                self._commit([request])
            except NOT_WRITABLE as error:
                log.error("%s: cannot write %s: %s", self._store.database.name, request, error)
                self._forget(1)
                errors.append(error)
        if errors:
            raise errors[0]

    def _forget(self, n: int) -> None:
        with self._changed:
            for _ in range(n):
                self._n_receipts_waiting -= isinstance(self._queue.popleft(), Confirm)
            self._changed.notify_all()

    def _note_fault(self, fault: StoreError) -> None:
        if self._fault is None:
            log.warning("%s; what is to be written is kept in memory meanwhile", fault)
            self._retry_s = FIRST_RETRY_S
        self._fault = fault
        self._retry_at = time.monotonic() + self._retry_s * random.uniform(0.5, 1.0)
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def _try_now(self) -> None:
        """Let the next try come at once, and those after it soon."""
        self._retry_s, self._retry_at = FIRST_RETRY_S, 0.0

    def _note_recovery(self) -> None:
        if self._fault is not None:
            kept = "" if isinstance(self._fault, DamagedDatabase) else "; nothing was lost"
            log.info("%s is written again%s", self._store.database.name, kept)
        self._fault = None
        self._retry_at = 0.0

    def _finish(self, beat: Callable[[], None]) -> None:
        """Write what is left, trying for a bounded time."""
        if self._fault is not None:
            self._try_now()
        give_up_at = time.monotonic() + self._finish_s
        while self._queue and time.monotonic() < give_up_at:
            beat()
            self._look_after_file(beat)
            self.step(WAIT_S)
        self._look_after_file(beat)
        if self._queue:
            log.error(
                "%s: stopped with %d requests unwritten: %s",
                self._store.database.name,
                len(self._queue),
                self._fault,
            )


def _key(interval: Interval) -> tuple[str, int, str]:
    return interval.run_id, interval.started_at, interval.state


def shortage(n_bytes: int, max_bytes: int | None, is_full: bool = False) -> str:
    """Return what to do about a file that is near its limit, or over it; empty if it is not."""
    if max_bytes is None or (n_bytes < NEAR * max_bytes and not is_full):
        return ""
    size = f"{n_bytes / BYTES_PER_MB:.0f} of {max_bytes / BYTES_PER_MB:.0f} MB"
    mend = "see why the log confirms nothing, or raise mqtt.outbox_max_mb"
    if is_full or n_bytes > max_bytes:
        return f"the outbox is full ({size}), and what is heard now would not be kept: {mend}"
    return f"the outbox holds {size}: {mend}"
