"""Augmentation does to a log-mel what would happen to its sound."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.augmentation import (  # noqa: E402
    LN_PER_DB,
    Augmentation,
    equalised,
    level,
    masked,
    mixed,
)
from trainer.encoder.mel import LogMel, MelConfig  # noqa: E402

GENERATOR = np.random.default_rng(0)
FRONT_END = LogMel(MelConfig(n_fft=1024, hop_length=256, n_mels=32))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Return the log-mel of one waveform, [1, n_mels, frames]."""
    return FRONT_END(torch.from_numpy(waveform.astype(np.float32))[None]).numpy()


def test_mixing_mels_is_mixing_sounds() -> None:
    """The mix of two noises' log-mels is, on average, the log-mel of their sum."""
    a, b = GENERATOR.standard_normal((2, 66_150)) * [[0.1], [0.02]]
    together, sum_of_mels = log_mel(a + b), mixed(log_mel(a), log_mel(b), np.array([-14.0]))
    assert np.mean(sum_of_mels - together) == pytest.approx(0.0, abs=0.05)


def test_the_second_sound_stands_at_its_level() -> None:
    """Whatever both levels were, the second is mixed in 10 dB below the first."""
    loud = np.full((1, 8, 16), 3.0, np.float32)
    faint = np.full((1, 8, 16), -9.0, np.float32)
    out = mixed(loud, faint, np.array([-10.0]))
    np.testing.assert_allclose(out, 3.0 + np.log1p(0.1), rtol=1e-5)


def test_level_is_the_mean_power() -> None:
    """The level of a spectrogram is the logarithm of its mean power, not the mean logarithm."""
    mel = np.log(np.array([[[1.0, 3.0], [4.0, 8.0]]], np.float32))
    assert level(mel)[0] == pytest.approx(np.log(4.0))


def test_an_equaliser_is_smooth_and_bounded() -> None:
    """A band changes alike at all times, its neighbours too, and none beyond the tilt."""
    mel = GENERATOR.standard_normal((5, 96, 40)).astype(np.float32)
    change = equalised(mel, 6.0, np.random.default_rng(1)) - mel
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :, :1], change.shape), atol=1e-5)
    assert np.abs(change).max() <= 6.0 * LN_PER_DB + 1e-5
    assert np.abs(np.diff(change[:, :, 0])).max() <= 12.0 * LN_PER_DB / 31


def test_masks_leave_the_rest_alone() -> None:
    """SpecAugment changes at most the width of its masks, and not its input."""
    mel = GENERATOR.standard_normal((4, 96, 256)).astype(np.float32)
    before = mel.copy()
    how = Augmentation(n_masks=1, mask_mels=10, mask_frames=20)
    out = masked(mel, how, np.random.default_rng(2))
    np.testing.assert_array_equal(mel, before)
    changed = out != mel
    assert changed.any()
    assert changed.all(axis=2).sum(axis=1).max() <= 10
    assert changed.all(axis=1).sum(axis=1).max() <= 20
    assert (changed.mean(axis=(1, 2)) <= 10 / 96 + 20 / 256).all()
