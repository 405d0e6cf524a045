"""How loud it is, in decibels below full scale."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

from fieldstation.records import Samples

FLOOR_DBFS = -120.0
"""What digital silence reads: below the least bit of 16-bit sound, and finite"""


@dataclass(frozen=True, slots=True)
class Level:
    """Loudness of a stretch of sound. 0 dBFS is a full-scale square wave; a full-scale sine has
    an RMS of -3.01 dBFS."""

    rms_dbfs: float
    peak_dbfs: float


SILENCE = Level(FLOOR_DBFS, FLOOR_DBFS)


def measure(samples: Samples) -> Level:
    """Return the level of mono samples, float32 [n], full scale ±1; of none, silence."""
    meter = Meter()
    meter.add(samples)
    return meter.take()


CLIPS_FROM = 1e-3
"""Share of samples at full scale: a click does not reach it, an overdriven input does"""
CLIPPING_WINDOW_S = 10.0


class Clipping:
    """Tells whether an input is overdriven, from the samples at full scale of the last seconds."""

    def __init__(self) -> None:
        self._n = self._n_clipped = 0
        self._is_clipping = False

    @property
    def problem(self) -> str:
        """Return what is wrong, and the mend; empty while all is well."""
        if not self._is_clipping:
            return ""
        return "the sound clips, 1 sample in 1,000 or more: turn the microphone down"

    def add(self, n: int, n_clipped: int, sample_rate: int) -> None:
        """Count in a chunk."""
        self._n += n
        self._n_clipped += n_clipped
        if self._n >= CLIPPING_WINDOW_S * sample_rate:
            self._is_clipping = self._n_clipped >= CLIPS_FROM * self._n
            self._n = self._n_clipped = 0


class Meter:
    """A running level: what one thread adds, another may take."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._energy, self._n, self._peak = 0.0, 0, 0.0

    def add(self, samples: Samples) -> None:
        """Count in float32 [n] samples."""
        if not samples.size:
            return
        # Summed in float64: a float32 sum of an hour's squares loses its low bits.
        energy = float(np.square(samples, dtype=np.float64).sum())
        peak = max(float(samples.max()), -float(samples.min()))
        with self._lock:
            self._energy += energy
            self._n += samples.size
            self._peak = max(self._peak, peak)

    def take(self) -> Level:
        """Return the level of everything added since the last call."""
        with self._lock:
            energy, n, peak = self._energy, self._n, self._peak
            self._energy, self._n, self._peak = 0.0, 0, 0.0
        return Level(_decibels(math.sqrt(energy / n)), _decibels(peak)) if n else SILENCE


def _decibels(amplitude: float) -> float:
    return max(20 * math.log10(amplitude), FLOOR_DBFS) if amplitude > 0 else FLOOR_DBFS
