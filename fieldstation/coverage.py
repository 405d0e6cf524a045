"""The coverage ledger: what was heard, and what was not and why.

Live, every moment of a run belongs to exactly one interval, so that their durations sum to the
run's monotonic time; instants come from the wall clock, and a step of it is a row of its own.
From files, an interval is what a file holds, at the file's own time.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace

from fieldstation.clock import US_PER_S, Clock, SystemClock
from fieldstation.records import FILE_RUN, AudioChunk, Hearing, Interval

log = logging.getLogger(__name__)

CLOCK_STEP_S = 1.0
"""A wall clock that moves this far against the monotonic one was set, not slewed"""
STARTS_KEPT = 10_000
MARK_S = 1e-3
"""A gap of a sample or two marks a place (a clock was set); it is no time"""
LATE_S = 2.0
"""Sound that comes within this was late, not lost; what was lost, the next chunk's gap tells"""
PULSE_S = 4.0
"""Between two pulses: what a kill leaves is at most 5 s old"""
STARTING, STOPPED = "starting", "stopped"
ASLEEP = "asleep"
"""Cause of what was not to be heard by schedule"""
SAME_FILE_SLACK_US = 2_000
"""Rounding between chunks of one recording"""

Sink = Callable[[Interval], None]


class Ledger:
    """Turns chunks and waits of a live source into intervals.

    `sink` receives an interval whenever it begins, grows or ends; one with the same
    `started_at` replaces the one before it.
    """

    def __init__(self, run_id: str, clock: Clock, sink: Sink, heartbeat_s: float = 5.0) -> None:
        self._run_id = run_id
        self._clock = clock
        self._sink = sink
        self._heartbeat_s = heartbeat_s
        self._cursor = clock.monotonic()
        self._wall_offset = clock.wall() - round(self._cursor * US_PER_S)
        self._began = self._told = self._cursor
        self._starts: deque[int] = deque(maxlen=STARTS_KEPT)
        self._open = Interval(run_id, self._free_start(), 0.0, Hearing.LOST, STARTING)
        self._stopped_since: int | None = None
        """End of the last run, while the clock stands before it"""
        self._waited_s = 0.0
        """Counted as lost since the last chunk"""
        self._owed_s, self._owed_for = 0.0, ""
        """Told by gaps, and not counted as lost yet"""

    @property
    def open(self) -> Interval:
        """Return the interval that is growing."""
        return self._open

    def was_stopped(self, since: int) -> None:
        """Record that no run heard from `since` until this one began, by the wall clock.

        A clock that stands before `since` was not set yet (a machine without a battery begins in
        1970): how long it was is known when it is.
        """
        began_at = self._wall_offset + round(self._began * US_PER_S)
        if began_at < since:
            self._stopped_since = since
            return
        self._stopped_since = None
        if began_at > since:
            stopped_s = (began_at - since) / US_PER_S
            self._sink(Interval(self._run_id, since, stopped_s, Hearing.LOST, STOPPED))

    def heard(self, chunk: AudioChunk) -> None:
        """Count the time up to now as heard, less the chunk's gap."""
        now = self._clock.monotonic()
        unheard_s = max(0.0, now - self._cursor - chunk.samples.size / chunk.sample_rate)
        if chunk.gap:
            self._owed_s += max(0.0, chunk.gap / chunk.sample_rate - self._waited_s)
            self._owed_for = chunk.cause or "overflow"
        elif self._open.cause == STARTING:
            self._advance(self._cursor + unheard_s, Hearing.LOST, STARTING)
        self._waited_s = 0.0
        self._pay(now - self._cursor if self._owed_s > unheard_s else unheard_s)
        self._advance(now, Hearing.HEARD, "")

    def _pay(self, most_s: float) -> None:
        """Count as lost what gaps have told.

        A gap is told when it is noticed, seconds after its time was counted as heard: as much of
        the time that follows stands for it.
        """
        paid_s = min(self._owed_s, most_s)
        if paid_s > MARK_S:
            self._advance(self._cursor + paid_s, Hearing.LOST, self._owed_for)
            self._owed_s -= paid_s

    def waited(self, cause: str) -> None:
        """Count the time up to now as lost, unless it may still turn out to be only late."""
        now = self._clock.monotonic()
        if cause == "microphone" and now - self._cursor < LATE_S:
            return
        self._waited_s += now - self._cursor
        self._advance(now, Hearing.LOST, cause)

    def close(self) -> None:
        """Tell the sink the last interval, grown to now."""
        self._advance(self._clock.monotonic(), self._open.state, self._open.cause)
        self._tell()

    def _advance(self, until: float, state: Hearing, cause: str) -> None:
        """Give the time from the cursor to `until` (monotonic seconds) to one state."""
        self._notice_clock_step()
        if (state, cause) != (self._open.state, self._open.cause):
            self._tell()
            self._open = Interval(self._run_id, self._free_start(), 0.0, state, cause)
            self._told = self._cursor - self._heartbeat_s
        self._open = replace(self._open, duration_s=self._open.duration_s + until - self._cursor)
        self._cursor = until
        if self._cursor - self._told >= self._heartbeat_s:
            self._tell()

    def _notice_clock_step(self) -> None:
        now = self._clock.wall()
        offset = now - round(self._clock.monotonic() * US_PER_S)
        step_s = (offset - self._wall_offset) / US_PER_S
        if abs(step_s) > CLOCK_STEP_S:
            self._wall_offset = offset
            # A new interval, named by the new time; the old one keeps its own.
            self._tell()
            self._open = replace(self._open, started_at=self._free_start(), duration_s=0.0)
            at = self._open.started_at
            self._sink(Interval(self._run_id, at, step_s, Hearing.CLOCK_STEP, "clock"))
            if self._stopped_since is not None:
                self.was_stopped(self._stopped_since)

    def _free_start(self) -> int:
        """Return the cursor's instant, moved by microseconds if another interval began then.

        The start is an interval's key, and a clock set back lives through the same time twice.
        """
        started_at = self._wall_offset + round(self._cursor * US_PER_S)
        while started_at in self._starts:
            started_at += 1
        self._starts.append(started_at)
        return started_at

    def _tell(self) -> None:
        self._told = self._cursor
        if self._open.duration_s > 0:
            self._sink(self._open)


def sums_between(intervals: Iterable[Interval], since: int, until: int) -> dict[str, float]:
    """Return the seconds heard, lost and slept by schedule within [since, until).

    Args:
        intervals: of one station; what lies outside counts nothing, clock steps neither.
    """
    sums = {"heard": 0.0, "lost": 0.0, "asleep": 0.0}
    for interval in intervals:
        end = interval.started_at + round(interval.duration_s * US_PER_S)
        inside_s = max(0, min(end, until) - max(interval.started_at, since)) / US_PER_S
        kind = ASLEEP if interval.cause == ASLEEP else interval.state.value
        if kind in sums:
            sums[kind] += inside_s
    return sums


class Pulse:
    """The interval that is growing, kept where a kill leaves it, oftener than a card likes."""

    def __init__(self, write: Callable[[dict[str, object]], None]) -> None:
        self._write = write
        self._beaten = -PULSE_S
        self._fault = ""

    def beat(self, now: float, interval: Interval | None) -> None:
        """Keep an interval, if the last beat is long enough ago; a disk that refuses is told once.

        Args:
            now: monotonic seconds.
        """
        if interval is None or now - self._beaten < PULSE_S:
            return
        self._beaten = now
        try:
            self._write(asdict(interval))
            self._fault = ""
        except OSError as error:
            if not self._fault:
                log.warning("no heartbeat outside station.db: %s", error)
            self._fault = str(error)


def read_pulse(values: Mapping[str, object]) -> Interval | None:
    """Return the interval that a pulse holds; None where it is none."""
    match values:
        case {
            "run_id": str(run_id),
            "started_at": int(started_at),
            "duration_s": int() | float() as duration_s,
            "state": str(state),
            "cause": str(cause),
        } if state in (Hearing.HEARD, Hearing.LOST):
            return Interval(run_id, started_at, float(duration_s), Hearing(state), cause)
    return None


class Changes:
    """Passes intervals on to a sink, and remembers which are new or have grown."""

    def __init__(self, sink: Sink, untold: Iterable[Interval] = ()) -> None:
        """Begin with those that an earlier run may not have told any more."""
        self._sink = sink
        self._lock = threading.Lock()
        self._changed = {_key(interval): interval for interval in untold}

    def __call__(self, interval: Interval) -> None:
        """Pass an interval on."""
        with self._lock:
            self._changed[_key(interval)] = interval
        self._sink(interval)

    def take(self) -> list[Interval]:
        """Return what has changed since the last call, oldest first; from any thread."""
        with self._lock:
            changed, self._changed = self._changed, {}
        return sorted(changed.values(), key=lambda interval: interval.started_at)


def _key(interval: Interval) -> tuple[str, int, Hearing]:
    return interval.run_id, interval.started_at, interval.state


class FileLedger:
    """Turns a file source's chunks into intervals at the recordings' own time."""

    def __init__(
        self, run_id: str, sink: Sink, clock: Clock | None = None, heartbeat_s: float = 5.0
    ) -> None:
        """Begin.

        Args:
            run_id: of intervals that come from no file; those of a file carry its content hash,
                so that hearing it again is no second hearing.
            clock: its monotonic time paces the heartbeat.
            heartbeat_s: how often a growing interval is told: a pipe may play for days.
        """
        self._run_id = run_id
        self._sink = sink
        self._clock = clock or SystemClock()
        self._heartbeat_s = heartbeat_s
        self._told = self._clock.monotonic()
        self._open: Interval | None = None
        self._stopped_since: int | None = None

    @property
    def open(self) -> Interval | None:
        """Return the interval that is growing."""
        return self._open

    def was_stopped(self, since: int) -> None:
        """Record that no run heard from `since` until this one hears a pipe.

        A recording has a time of its own, in which nothing was stopped.
        """
        self._stopped_since = since

    def heard(self, chunk: AudioChunk) -> None:
        """Append a chunk to its recording's interval, or begin a new one."""
        duration_s = chunk.samples.size / chunk.sample_rate
        run_id = f"{FILE_RUN}{chunk.file.content_hash[:24]}" if chunk.file else self._run_id
        if self._open is not None and self._open.run_id == run_id and not chunk.gap:
            ended_at = self._open.started_at + round(self._open.duration_s * US_PER_S)
            if abs(chunk.captured_at - ended_at) <= SAME_FILE_SLACK_US:
                grown_s = self._open.duration_s + duration_s
                self._open = replace(self._open, duration_s=grown_s)
                self._beat()
                return
        self.close()
        self._open = Interval(run_id, chunk.captured_at, duration_s, Hearing.HEARD)
        if chunk.file is None and self._stopped_since is not None:
            self._end_stop(chunk.captured_at)

    def _end_stop(self, at: int) -> None:
        since, self._stopped_since = self._stopped_since, None
        if since is not None and at > since:
            stopped_s = (at - since) / US_PER_S
            self._sink(Interval(self._run_id, since, stopped_s, Hearing.LOST, STOPPED))

    def waited(self, cause: str) -> None:
        """Count nothing: what comes late from a pipe was not lost."""

    def _beat(self) -> None:
        now = self._clock.monotonic()
        if self._open is not None and now - self._told >= self._heartbeat_s:
            self._told = now
            self._sink(self._open)

    def close(self) -> None:
        """Tell the sink the interval that was growing."""
        if self._open is not None:
            self._sink(self._open)
        self._open = None
