"""Writes the clip of each event as FLAC, in its own thread, unless a human voice is in it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import UUID

import soundfile

from fieldstation import __version__
from fieldstation.clips.ring import Recording, Ring, Stretch
from fieldstation.clock import format_instant, local
from fieldstation.records import AudioChunk, ClipState, Event

log = logging.getLogger(__name__)

MAX_BACKLOG_BYTES = 32 << 20
"""Audio that may wait to be written: eleven clips of 30 s at 48 kHz"""
POLL_S = 0.5
GRACE_S = 5.0
"""How long clips that still wait are written once the station stops"""

OnState = Callable[[UUID, ClipState, str | None], None]
"""Told what became of an event's clip; the text is its name below the folder, if written"""


class Gate(Protocol):
    """Judges whether a recording may be kept."""

    def hears_voice(self, recording: Recording, beat: Callable[[], None]) -> bool:
        """Return whether a human voice is in it; call `beat` at least every second."""
        ...


@dataclass(frozen=True, slots=True)
class ClipTags:
    """What every clip of a station says about where it is from."""

    station: str
    timezone: str = "UTC"
    """IANA zone, whose dates name the folders"""
    licence: str | None = None


class ClipWriter:
    """Takes events as they close; cuts, gates and writes their clips. A stage.

    `hear` and `post` belong to the analysis thread and never wait for a live source. With
    `live=False` (files: analysis is faster than the gate) `post` and `hear` wait for room.
    """

    def __init__(
        self,
        folder: Path,
        ring: Ring,
        gate: Gate,
        pre_roll_s: float,
        post_roll_s: float,
        on_state: OnState,
        tags: ClipTags,
        live: bool = True,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind the parts; nothing is touched before `run`.

        Args:
            folder: is made with the first clip.
            ring: holds the longest event and its rolls.
            on_state: called by the writer's thread, and by the analysis thread for a clip that
                is missing from the start.
            on_wait: called every 0.5 s while `post` or `hear` waits for room.
        """
        self._folder = folder
        self._ring = ring
        self._gate = gate
        self._pre_roll_s = pre_roll_s
        self._post_roll_s = post_roll_s
        self._on_state = on_state
        self._tags = tags
        self._live = live
        self._on_wait = on_wait
        self._backlog = _Backlog(MAX_BACKLOG_BYTES)
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Return why clips cannot be written at present, for health; None while all is well."""
        return self._fault

    @property
    def n_waiting(self) -> int:
        """Return how many cut clips wait to be written."""
        return len(self._backlog)

    def hear(self, chunk: AudioChunk) -> None:
        """Remember a chunk; clips that waited for it are cut."""
        self._ring.push(chunk)

    def post(self, event: Event) -> None:
        """Cut the event's clip as soon as its post-roll was heard, and write it."""
        stretch = Stretch(
            event.started_at, event.ended_at, self._pre_roll_s, self._post_roll_s, event.file
        )
        self._ring.request(stretch, partial(self._take, event))

    def finish(self) -> None:
        """Cut what still waits for its post-roll: the source has ended."""
        self._ring.finish()

    def drain(self, timeout: float) -> bool:
        """Wait until all that was cut is written; return whether it is."""
        return self._backlog.wait_until_done(timeout)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Write clips until told to stop, and then for a short while those that are cut."""
        try:
            while not stop.is_set():
                self._turn(POLL_S, beat)
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and self._turn(0, beat):
                pass
        finally:
            self._abandon()

    def _take(self, event: Event, recording: Recording | None) -> None:
        """Receive a cut from the ring, in the analysis thread."""
        if recording is None:
            self._report_missing(event, "the ring no longer held it")
            return
        task = _Task(event, recording)
        while not self._backlog.put(task, timeout=0 if self._live else POLL_S):
            if self._live or self._backlog.is_closed:
                self._report_missing(event, "the clip writer is behind or has stopped")
                return
            self._on_wait()

    def _turn(self, timeout: float, beat: Callable[[], None]) -> bool:
        """Write the next clip; return whether there was one."""
        beat()
        task = self._backlog.get(timeout)
        if task is None:
            return False
        try:
            self._write(task, beat)
        finally:
            self._backlog.done()
        return True

    def _write(self, task: _Task, beat: Callable[[], None]) -> None:
        event = task.event
        if self._gate.hears_voice(task.recording, beat):
            log.info("clip of %s withheld: a human voice is in it", event.label.common_name)
            self._on_state(event.id, ClipState.WITHHELD, None)
            return
        name = clip_name(event, self._tags.timezone)
        if why_not := self._store(name, task):
            self._begin_fault(why_not)
            self._on_state(event.id, ClipState.MISSING, None)
            return
        self._end_fault()
        self._on_state(event.id, ClipState.WRITTEN, name)

    def _store(self, name: str, task: _Task) -> str:
        """Write a clip's file; return why not, or an empty text where it is there now."""
        try:
            store(self._folder / name, encode(task.event, task.recording, self._tags))
        except OSError as error:
            return f"{self._folder}: {error.strerror or error}"
        except soundfile.SoundFileError:  # beyond 655,350 Hz, or an odd rate beyond 65,535
            rate = task.recording.sample_rate
            return f"FLAC takes no sound of {rate} Hz: choose another rate, or set clips = false"
        return ""

    def _begin_fault(self, reason: str) -> None:
        if self._fault is None:
            log.error("clips cannot be written: %s; events go on without them", reason)
        self._fault = reason

    def _end_fault(self) -> None:
        if self._fault is not None:
            log.warning("clips are written again")
        self._fault = None

    def _report_missing(self, event: Event, reason: str) -> None:
        log.warning("no clip of %s: %s", event.label.common_name, reason)
        self._on_state(event.id, ClipState.MISSING, None)

    def _abandon(self) -> None:
        """Say of every clip that was not written in time that it is missing."""
        for task in self._backlog.close():
            self._report_missing(task.event, "the station stopped before it was written")


def clip_name(event: Event, timezone: str) -> str:
    """Return where an event's clip is, below the clip folder: `2026-05-01/<event id>.flac`.

    Args:
        timezone: IANA; its local date is the folder.
    """
    return f"{local(event.started_at, timezone):%Y-%m-%d}/{event.id}.flac"


def encode(event: Event, recording: Recording, tags: ClipTags) -> bytes:
    """Return a recording as a FLAC file, 16-bit, that says in its tags what it is."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", recording.sample_rate, 1, subtype="PCM_16", format="FLAC"
    ) as flac:
        flac.title = f"{event.label.common_name} ({event.label.scientific_name})"
        flac.artist = tags.station
        flac.date = format_instant(recording.started_at)
        flac.software = f"fieldstation {__version__}"
        flac.comment = json.dumps(_describe(event, recording), ensure_ascii=False)
        if tags.licence:
            flac.license = tags.licence
        flac.write(recording.samples)
    return file.getvalue()


def store(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it, whatever fails.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name of an empty file
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _describe(event: Event, recording: Recording) -> dict[str, str | float]:
    return {
        "event_id": str(event.id),
        "scientific_name": event.label.scientific_name,
        "common_name": event.label.common_name,
        "started_at": format_instant(event.started_at),
        "ended_at": format_instant(event.ended_at),
        "recorded_at": format_instant(recording.started_at),
        "probability": round(event.probability, 6),
        "threshold": event.threshold,
        "encoder_id": event.encoder_id,
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A clip to be written."""

    event: Event
    recording: Recording


class _Backlog:
    """Cut clips that wait, bounded by their bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tasks: deque[_Task] = deque()
        self._n_bytes = 0
        self._n_undone = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def is_closed(self) -> bool:
        """Return whether it takes no more."""
        return self._closed

    def put(self, task: _Task, timeout: float) -> bool:
        """Append a task; return whether it was taken. One always fits, however long."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(task), timeout)
            if self._closed or not self._has_room(task):
                return False
            self._tasks.append(task)
            self._n_bytes += task.recording.samples.nbytes
            self._n_undone += 1
            self._changed.notify_all()
            return True

    def get(self, timeout: float) -> _Task | None:
        """Take the oldest task, or None after the timeout; call `done` when it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks, timeout)
            if not self._tasks:
                return None
            task = self._tasks.popleft()
            self._n_bytes -= task.recording.samples.nbytes
            self._changed.notify_all()
            return task

    def done(self) -> None:
        """Say that a taken task is finished."""
        with self._changed:
            self._n_undone -= 1
            self._changed.notify_all()

    def wait_until_done(self, timeout: float) -> bool:
        """Wait until every task that was put is done; return whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._n_undone == 0, timeout)

    def close(self) -> list[_Task]:
        """Take no more; return what was left, and wake who waits."""
        with self._changed:
            left, self._closed = list(self._tasks), True
            self._tasks.clear()
            self._n_undone = 0
            self._changed.notify_all()
            return left

    def _has_room(self, task: _Task) -> bool:
        n_bytes = task.recording.samples.nbytes
        return not self._tasks or self._n_bytes + n_bytes <= self._max_bytes
