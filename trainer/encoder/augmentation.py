"""Changes of a log-mel spectrogram that leave its birds the same. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mels = NDArray[np.float32]
"""Natural log of power, [batch, n_mels, frames]"""
Floats = NDArray[np.float64]

LN_PER_DB = np.log(10) / 10


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much of what."""

    gain_db: tuple[float, float] = (-36.0, 6.0)
    """Uploaded recordings are loud (median -31 dBFS above 1.5 kHz), field recorders are not"""
    shift_frames: int = 20
    """Windows start this much earlier or later: a quarter of a second"""
    mix_share: float = 0.4
    """Of windows that get a second one on top"""
    mix_db: tuple[float, float] = (-6.0, 6.0)
    """Level of the second against the first"""
    background_share: float = 0.4
    background_db: tuple[float, float] = (-25.0, 0.0)
    """Level of background against the window"""
    tilt_db: float = 6.0
    """A random smooth equaliser: distance, foliage and microphones differ so"""
    n_masks: int = 2
    """SpecAugment (Park et al. 2019), of each kind"""
    mask_mels: int = 12
    mask_frames: int = 32


def mixed(mel: Mels, other: Mels, relative_db: Floats) -> Mels:
    """Return the log-mel of two sounds at once: uncorrelated powers add.

    Args:
        relative_db: level of the second against the first, whatever both had before, [batch].
    """
    difference = level(mel) - level(other) + relative_db * LN_PER_DB
    summed: Mels = np.logaddexp(mel, other + difference[:, None, None].astype(np.float32))
    return summed


def level(mel: Mels) -> Floats:
    """Return the natural log of each spectrogram's mean power, [batch]."""
    flat = mel.reshape(len(mel), -1).astype(np.float64)
    peak = flat.max(axis=1)
    levels: Floats = peak + np.log(np.exp(flat - peak[:, None]).mean(axis=1))
    return levels


def equalised(mel: Mels, tilt_db: float, chance: np.random.Generator) -> Mels:
    """Return spectrograms through a random equaliser, linear between four points."""
    n_mels = mel.shape[1]
    points = chance.uniform(-tilt_db, tilt_db, (len(mel), 4)) * LN_PER_DB
    where = np.linspace(0, 3, n_mels)
    left = np.minimum(where.astype(int), 2)
    share = where - left
    curve = points[:, left] * (1 - share) + points[:, left + 1] * share
    equal: Mels = mel + curve[:, :, None].astype(np.float32)
    return equal


def masked(mel: Mels, how: Augmentation, chance: np.random.Generator) -> Mels:
    """Return spectrograms with bands and stretches replaced by their mean."""
    out = mel.copy()
    for row in out:
        mean = row.mean()
        for _ in range(how.n_masks):
            height, width = chance.integers(0, [how.mask_mels + 1, how.mask_frames + 1])
            band = chance.integers(0, row.shape[0] - height + 1)
            stretch = chance.integers(0, row.shape[1] - width + 1)
            row[band : band + height] = mean
            row[:, stretch : stretch + width] = mean
    return out
