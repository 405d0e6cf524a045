"""From chunks at any rate to the encoder's windows.

Resampling is soxr's stream, which lines its output up with its input: output sample k is the
sound at input time k / rate, and its delay is only in when that sample comes out. So every
window's instant follows from its sample index; nothing is subtracted twice. A test holds
impulses against it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import soxr

from fieldstation.clock import US_PER_S
from fieldstation.records import AudioChunk, FileOrigin, Samples, Window

MIN_TAIL_S = 0.1
"""New sound that a last window must hold: less is no call."""
ROUNDING_US = 2
"""Chunks are stamped in whole microseconds; a stamp within this of the last count is the same."""


class Windower:
    """Cuts one source into windows of `samples_per_window`, one every `hop_samples`.

    A window never straddles a gap: lost samples, another file, another place in the file or
    another rate end the stretch. What is left of it then, and at `finish`, is heard in one last
    window that ends with the stretch, if at least `MIN_TAIL_S` of it no window held; less is
    dropped. Only a stretch shorter than a window is padded: zeros are no silence to an encoder.
    """

    def __init__(self, sample_rate: int, samples_per_window: int, hop_samples: int) -> None:
        if not 1 <= hop_samples <= samples_per_window:
            raise ValueError(
                f"hop_samples is {hop_samples}; 1 to {samples_per_window}, or sound is skipped"
            )
        self._sample_rate = sample_rate
        self._samples_per_window = samples_per_window
        self._hop = hop_samples
        self._stretch: _Stretch | None = None
        self._n_stretches = 0

    def push(self, chunk: AudioChunk) -> list[Window]:
        """Take a chunk; return the windows it completes (of the stretch before it, too)."""
        windows = []
        if self._stretch is None or not self._stretch.is_continued_by(chunk):
            windows = self.finish()
            self._stretch = self._begin(chunk)
        return windows + self._stretch.add(chunk)

    def finish(self) -> list[Window]:
        """End the stretch; return its last windows. The next chunk begins another."""
        stretch, self._stretch = self._stretch, None
        return stretch.end() if stretch else []

    def _begin(self, chunk: AudioChunk) -> _Stretch:
        after_gap = chunk.gap > 0 or self._n_stretches > 0
        self._n_stretches += 1
        return _Stretch(chunk, self._sample_rate, self._samples_per_window, self._hop, after_gap)


class _Stretch:
    """Sound without a gap, of one rate and file."""

    def __init__(
        self, first: AudioChunk, rate: int, samples_per_window: int, hop: int, after_gap: bool
    ) -> None:
        self._first = first
        self._rate = rate
        self._spw = samples_per_window
        self._hop = hop
        self._after_gap = after_gap
        self._resampler = (
            soxr.ResampleStream(first.sample_rate, rate, 1, dtype="float32", quality="HQ")
            if first.sample_rate != rate
            else None
        )
        self._n_in = 0
        """Samples taken, at the source's rate"""
        self._next = 0
        """Where the next window starts, at the bundle's rate"""
        self._heard = 0
        """Up to where windows reached"""
        self._kept = _Kept(4 * samples_per_window)
        # Marks tie sample counts to instants: (index at the source's rate, its instant). A
        # file needs one; a live source is slewed towards the wall clock and makes more.
        self._marks = deque([(0, first.captured_at)])

    def is_continued_by(self, chunk: AudioChunk) -> bool:
        """Return whether nothing lies between what was added and this chunk."""
        if chunk.gap or chunk.sample_rate != self._first.sample_rate:
            return False
        if chunk.file is None or self._first.file is None:
            return chunk.file is self._first.file
        # Path too: a copy of a file has the same content and is another recording.
        return chunk.file == replace(
            self._first.file, first_sample=self._first.file.first_sample + self._n_in
        )

    def add(self, chunk: AudioChunk) -> list[Window]:
        """Return the windows that the chunk completes."""
        self._mark(chunk.captured_at)
        self._n_in += chunk.samples.size
        samples = np.ascontiguousarray(chunk.samples, np.float32)
        return self._cut(self._resample(samples))

    def end(self) -> list[Window]:
        """Return the windows in what the resampler held back, and the one that ends with it."""
        windows = self._cut(self._resample(np.empty(0, np.float32), last=True))
        end = self._kept.end
        n_new = end - self._heard
        if n_new >= MIN_TAIL_S * self._rate:
            self._next = max(0, end - self._spw)
            samples = np.zeros(self._spw, np.float32)
            samples[: end - self._next] = self._kept.between(self._next, end)
            windows.append(self._window(samples, n_new, self._spw - (end - self._next)))
        return windows

    def _resample(self, samples: Samples, last: bool = False) -> Samples:
        if self._resampler is None:
            return samples
        resampled: Samples = self._resampler.resample_chunk(samples, last=last)
        return resampled

    def _cut(self, samples: Samples) -> list[Window]:
        windows = []
        # By pieces, so that an hour in one chunk needs no buffer of an hour.
        for start in range(0, samples.size, self._spw):
            # The stretch may end here, and its last window then begins before the next one.
            needed = max(0, self._next - self._hop)
            self._kept.append(samples[start : start + self._spw], needed)
            while self._kept.end >= self._next + self._spw:
                # A copy: the window outlives the buffer.
                cut = self._kept.between(self._next, self._next + self._spw).copy()
                windows.append(self._window(cut, self._next + self._spw - self._heard))
                self._heard = self._next + self._spw
                self._next += self._hop
        return windows

    def _window(self, samples: Samples, n_new: int, n_padding: int = 0) -> Window:
        after_gap, self._after_gap = self._after_gap, False
        return Window(
            samples=samples,
            started_at=self._instant(self._next),
            offset=self._next,
            n_new=n_new,
            after_gap=after_gap,
            n_padding=n_padding,
            file=self._origin(self._next),
        )

    def _mark(self, captured_at: int) -> None:
        index, at = self._marks[-1]
        counted = at + (self._n_in - index) * US_PER_S / self._first.sample_rate
        if abs(captured_at - counted) > ROUNDING_US:
            self._marks.append((self._n_in, captured_at))

    def _instant(self, offset: int) -> int:
        # Compared and counted in units of 1 / (source rate × bundle rate): whole numbers.
        place, per_in = offset * self._first.sample_rate, self._rate
        while len(self._marks) > 1 and self._marks[1][0] * per_in <= place:
            self._marks.popleft()  # windows only move forward
        index, at = self._marks[0]
        return at + round((place - index * per_in) * US_PER_S / (self._first.sample_rate * per_in))

    def _origin(self, offset: int) -> FileOrigin | None:
        if self._first.file is None:
            return None
        passed = offset * self._first.sample_rate // self._rate
        return replace(self._first.file, first_sample=self._first.file.first_sample + passed)


class _Kept:
    """The samples that coming windows may still need, by their index in the stretch.

    They sit in one array with room behind them and move to its front only when that is used
    up: each sample is moved about once per `room` samples, not once per push.
    """

    def __init__(self, room: int) -> None:
        self._array = np.empty(room, np.float32)
        self._first = 0
        """Index of the sample in array[0]"""
        self.end = 0
        """Index behind the last sample"""

    def append(self, samples: Samples, needed: int) -> None:
        """Add samples; those before index `needed` may be forgotten."""
        if self.end - self._first + samples.size > self._array.size:
            kept = self._array[needed - self._first : self.end - self._first].copy()
            self._array[: kept.size] = kept
            self._first = needed
        at = self.end - self._first
        self._array[at : at + samples.size] = samples
        self.end += samples.size

    def between(self, start: int, end: int) -> Samples:
        """Return a view of the samples from index `start` up to `end`."""
        return self._array[start - self._first : end - self._first]
