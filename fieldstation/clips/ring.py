"""The last seconds of audio, so that a clip can begin before its event was known.

The ring is filled by the analysis thread with the very chunks it analyses. A clip that still
waits for its post-roll is cut inside the `push` that brings it: however much faster a file is
read than clips are written, no audio is overwritten before it was taken.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldstation.clock import US_PER_S
from fieldstation.records import AudioChunk, FileOrigin

FULL_SCALE = 32_768


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Consecutive samples cut from the ring."""

    samples: NDArray[np.int16]
    """int16 [n] mono"""
    sample_rate: int
    """Hertz"""
    started_at: int
    """Instant of the first sample"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What an event asks of the ring."""

    started_at: int
    ended_at: int
    pre_roll_s: float
    post_roll_s: float
    file: FileOrigin | None = None
    """The file it was heard in: two files may claim the same instants"""


Deliver = Callable[[Recording | None], None]
"""Takes the recording, or None where the ring does not hold the event"""


class Ring:
    """Recent audio by instant. Thread-safe; `deliver` is called by the thread that pushes."""

    def __init__(self, seconds: float) -> None:
        """Start empty.

        Args:
            seconds: how much is kept at least, once it was pushed: the longest event, its
                pre-roll, its post-roll, and the windows that pass before it closes. Kept as
                int16, 36 s at 48 kHz are 3.5 MB.
        """
        self._seconds = seconds
        self._kept: deque[_Kept] = deque()
        self._pending: list[_Cut] = []
        self._lock = threading.Lock()

    @property
    def held_s(self) -> float:
        """Return how many seconds are held."""
        with self._lock:
            return sum(kept.seconds for kept in self._kept)

    def push(self, chunk: AudioChunk) -> None:
        """Append a chunk and deliver what waited for it or will wait in vain."""
        with self._lock:
            last = self._kept[-1] if self._kept else None
            kept = _keep(chunk, last)
            due = self._take_pending(lambda cut: cut.run < kept.run)
            ready = [(cut.deliver, self._cut(cut)) for cut in due]
            self._kept.append(kept)
            self._trim()
            due = self._take_pending(lambda cut: cut.end <= kept.end)
            ready += [(cut.deliver, self._cut(cut)) for cut in due]
        for deliver, recording in ready:
            deliver(recording)

    def request(self, stretch: Stretch, deliver: Deliver) -> None:
        """Cut an event with its rolls, now or as soon as the post-roll is there.

        The rolls end where the source broke off: a recording never holds a gap.
        """
        with self._lock:
            cut = self._locate(stretch, deliver)
            last = self._kept[-1] if self._kept else None
            if cut is not None and last is not None and cut.run == last.run and cut.end > last.end:
                self._pending.append(cut)
                return
            recording = self._cut(cut) if cut is not None else None
        deliver(recording)

    def finish(self) -> None:
        """Deliver what waits with the audio there is: nothing more will come."""
        with self._lock:
            ready = [(cut.deliver, self._cut(cut)) for cut in self._take_pending(lambda cut: True)]
        for deliver, recording in ready:
            deliver(recording)

    def _take_pending(self, due: Callable[[_Cut], bool]) -> list[_Cut]:
        taken = [cut for cut in self._pending if due(cut)]
        self._pending = [cut for cut in self._pending if cut not in taken]
        return taken

    def _trim(self) -> None:
        """Drop the oldest chunks that are not needed to hold `seconds`."""
        spare = sum(kept.seconds for kept in self._kept) - self._seconds
        while self._kept[0].seconds <= spare:
            spare -= self._kept.popleft().seconds

    def _locate(self, stretch: Stretch, deliver: Deliver) -> _Cut | None:
        """Turn instants into sample positions; None where the ring does not hold the event.

        Where the wall clock was set back, an instant occurs twice: the newer one counts.
        """
        of_file = [kept for kept in self._kept if _same_file(kept.file, stretch.file)]
        last = _find(of_file, stretch.ended_at)
        if last is None:
            return None
        run = [kept for kept in of_file if kept.run == last.run and kept.first <= last.first]
        first = _find(run, stretch.started_at) or run[0]
        begin, end = first.position(stretch.started_at), last.position(stretch.ended_at)
        if begin >= end:
            return None
        rate = last.sample_rate
        return _Cut(
            run=last.run,
            begin=begin - round(stretch.pre_roll_s * rate),
            end=end + round(stretch.post_roll_s * rate),
            deliver=deliver,
        )

    def _cut(self, cut: _Cut) -> Recording | None:
        """Copy a cut's samples, as far as they are held."""
        parts = list(self._parts(cut))
        if not parts:
            return None
        kept, offset, _ = parts[0]
        return Recording(
            samples=np.concatenate([k.samples[a:b] for k, a, b in parts]),
            sample_rate=kept.sample_rate,
            started_at=kept.captured_at + offset * US_PER_S // kept.sample_rate,
        )

    def _parts(self, cut: _Cut) -> Iterator[tuple[_Kept, int, int]]:
        for kept in self._kept:
            begin = max(cut.begin - kept.first, 0)
            end = min(cut.end - kept.first, len(kept.samples))
            if kept.run == cut.run and begin < end:
                yield kept, begin, end


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A chunk in the ring."""

    samples: NDArray[np.int16]
    sample_rate: int
    captured_at: int
    file: FileOrigin | None
    run: int
    """Counts up where the source broke off"""
    first: int
    """Position of its first sample since the run began"""

    @property
    def end(self) -> int:
        return self.first + len(self.samples)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    def holds(self, at: int) -> bool:
        """Return whether an instant lies in this chunk or at its end."""
        return 0 <= (at - self.captured_at) / US_PER_S <= self.seconds

    def position(self, at: int) -> int:
        """Return the position of an instant, at most this chunk's end."""
        into = round((at - self.captured_at) * self.sample_rate / US_PER_S)
        return self.first + min(into, len(self.samples))


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A request in sample positions of one run."""

    run: int
    begin: int
    end: int
    deliver: Deliver


def _find(kept: list[_Kept], at: int) -> _Kept | None:
    """Return the newest chunk that holds an instant, else the newest that began before it."""
    holding = next((k for k in reversed(kept) if k.holds(at)), None)
    return holding or next((k for k in reversed(kept) if k.captured_at <= at), None)


def _keep(chunk: AudioChunk, last: _Kept | None) -> _Kept:
    samples = np.clip(np.rint(chunk.samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    goes_on = last is not None and _continues(chunk, last)
    return _Kept(
        samples=samples.astype(np.int16),
        sample_rate=chunk.sample_rate,
        captured_at=chunk.captured_at,
        file=chunk.file,
        run=0 if last is None else last.run + (not goes_on),
        first=last.end if last is not None and goes_on else 0,
    )


def _continues(chunk: AudioChunk, last: _Kept) -> bool:
    """Return whether nothing lies between the last chunk and this one."""
    if chunk.gap or chunk.sample_rate != last.sample_rate:
        return False
    if chunk.file is None or last.file is None:
        return chunk.file is last.file
    follows = chunk.file.first_sample == last.file.first_sample + len(last.samples)
    return follows and _same_file(chunk.file, last.file)


def _same_file(one: FileOrigin | None, other: FileOrigin | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.path, one.content_hash) == (other.path, other.content_hash)
