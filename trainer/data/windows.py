"""Windows of recordings, and which of them hold sound worth teaching.

A label belongs to a recording, not to its every second: a window of silence taught as song is a
false alarm to come. `active_windows` keeps the windows near the recording's loudest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.audio import AudioSet, Samples

ACTIVE_WITHIN_DB = 12.0
"""A window this much below its recording's loudest is taken for silence"""
LEAST_NEW = 1 / 30
"""Of a window, that no other held: a tenth of a second of three, as a station has it"""
FRAME_S = 0.025
"""Grain of the activity measure: about one note of a song"""


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """How a recording is cut."""

    n_samples: int
    hop: int


@dataclass(frozen=True, slots=True, eq=False)
class WindowSet:
    """Windows of an `AudioSet`, in order of recording, then of time."""

    audio: AudioSet
    grid: WindowGrid
    recording: NDArray[np.int64]
    """Index into `audio.recordings` [windows]"""
    start: NDArray[np.int64]
    """First sample within its recording [windows]"""

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.recording)

    def read(self, indices: NDArray[np.int64]) -> Samples:
        """Return windows float32 [indices, n_samples]; beyond a recording's end stand zeros."""
        out = np.zeros((len(indices), self.grid.n_samples), np.float32)
        for row, index in zip(out, indices, strict=True):
            samples = self.audio.of(int(self.recording[index]))[self.start[index] :]
            samples = samples[: self.grid.n_samples]
            row[: len(samples)] = samples
        return out

    def batches(self, batch_size: int) -> Iterator[Samples]:
        """Yield all windows in order."""
        for first in range(0, len(self), batch_size):
            yield self.read(np.arange(first, min(first + batch_size, len(self))))


def window_starts(n_samples: int, grid: WindowGrid) -> NDArray[np.int64]:
    """Return where windows begin: every hop while they fit, at least one.

    One more ends with the recording where more than `LEAST_NEW` of a window is left over: the
    same audio that a station hears when a file ends.
    """
    last = n_samples - grid.n_samples
    starts = np.arange(0, max(0, last) + 1, grid.hop)
    if last - starts[-1] >= LEAST_NEW * grid.n_samples:
        starts = np.append(starts, last)
    return starts


def activity_db(samples: Samples, sample_rate: int, grid: WindowGrid) -> NDArray[np.float64]:
    """Return the loudness of each window's loudest tenth, in decibels [windows].

    The first difference before the energy weighs a frequency by its height: wind and traffic
    below 500 Hz lie 20 dB under a song at 5 kHz of the same power.
    """
    frame = round(FRAME_S * sample_rate)
    energy = np.diff(samples, prepend=samples[:1]).astype(np.float64) ** 2
    levels = []
    for start in window_starts(len(samples), grid):
        window = energy[start : start + grid.n_samples]
        frames = np.add.reduceat(window, np.arange(0, len(window), frame)) / frame
        levels.append(10 * np.log10(np.percentile(frames, 90) + 1e-12))
    return np.array(levels)


def all_windows(audio: AudioSet, grid: WindowGrid) -> WindowSet:
    """Return every window of every recording."""
    starts = [window_starts(len(audio.of(i)), grid) for i in range(len(audio.recordings))]
    return _joined(audio, grid, starts)


def active_windows(audio: AudioSet, grid: WindowGrid) -> WindowSet:
    """Return each recording's windows within `ACTIVE_WITHIN_DB` of its loudest."""
    starts = []
    for i in range(len(audio.recordings)):
        levels = activity_db(audio.of(i), audio.sample_rate, grid)
        keep = levels >= levels.max() - ACTIVE_WITHIN_DB
        starts.append(window_starts(len(audio.of(i)), grid)[keep])
    return _joined(audio, grid, starts)


def _joined(audio: AudioSet, grid: WindowGrid, starts: list[NDArray[np.int64]]) -> WindowSet:
    owners = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
    return WindowSet(audio, grid, owners, np.concatenate(starts))
