"""Channels become one."""

from __future__ import annotations

import numpy as np

from fieldstation.audio.mono import from_int16, to_mono


def test_a_mix_is_the_mean_and_a_choice_is_the_channel() -> None:
    """Three channels mix to their mean; a chosen one comes as it is."""
    frames = np.array([[0.3, -0.3, 0.6], [0.0, 0.5, 0.1]], np.float32)
    np.testing.assert_allclose(to_mono(frames, None)[0], [0.2, 0.2], atol=1e-7)
    np.testing.assert_array_equal(to_mono(frames, 1)[0], frames[:, 1])


def test_the_samples_are_the_callers_own() -> None:
    """A device's buffer is used again; what was taken from it stays."""
    frames = np.full((4, 1), 0.5, np.float32)
    mono, _ = to_mono(frames, None)
    frames[:] = 0
    assert mono.flags.c_contiguous
    np.testing.assert_array_equal(mono, [0.5] * 4)


def test_clipping_is_counted_before_the_mix_hides_it() -> None:
    """A frame counts once if a channel that is heard touches full scale, of either sign."""
    frames = np.array([[1.0, 0.0], [-1.0, 1.0], [0.5, 0.9989], [0.0, -0.999]], np.float32)
    assert to_mono(frames, None)[1] == 3
    assert to_mono(frames, 0)[1] == 2


def test_16_bit_samples_fill_the_scale() -> None:
    """-32768 is -1, and 1 is the least step."""
    converted = from_int16(np.array([-32_768, 0, 1, 16_384], np.int16))
    np.testing.assert_array_equal(converted, np.float32([-1, 0, 1 / 32_768, 0.5]))
    assert converted.dtype == np.float32
