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
