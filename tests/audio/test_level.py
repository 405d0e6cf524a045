"""Levels against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fieldstation.audio.level import FLOOR_DBFS, SILENCE, Clipping, Meter, measure


def test_a_full_scale_sine_is_three_decibels_below_a_square() -> None:
    """RMS of a sine is 1/√2, its peak 1."""
    sine = np.sin(2 * np.pi * np.arange(48_000) / 48).astype(np.float32)
    level = measure(sine)
    assert level.rms_dbfs == pytest.approx(-3.0103, abs=1e-3)
    assert level.peak_dbfs == pytest.approx(0, abs=1e-3)
    assert measure(np.sign(sine + 1e-9)).rms_dbfs == pytest.approx(0, abs=1e-6)


def test_a_tenth_of_the_amplitude_is_twenty_decibels_less() -> None:
    """Decibels of amplitude, of either sign."""
    assert measure(np.full(100, -0.1, np.float32)).peak_dbfs == pytest.approx(-20, abs=1e-4)


@pytest.mark.parametrize("samples", [np.zeros(100, np.float32), np.empty(0, np.float32)])
def test_silence_is_finite(samples: np.ndarray) -> None:
    """No logarithm of zero reaches a display."""
    assert measure(samples) == SILENCE
    assert SILENCE.rms_dbfs == SILENCE.peak_dbfs == FLOOR_DBFS


def test_a_meter_tells_what_came_since_it_was_read() -> None:
    """Two halves added are one whole; reading begins anew."""
    meter, sound = Meter(), np.linspace(-0.5, 0.2, 1_000, dtype=np.float32)
    meter.add(sound[:300])
    meter.add(sound[300:])
    level = meter.take()
    assert level.rms_dbfs == pytest.approx(measure(sound).rms_dbfs)
    assert level.peak_dbfs == pytest.approx(-6.0206, abs=1e-3)
    assert meter.take() == SILENCE


def test_clipping_is_told_for_as_long_as_it_lasts() -> None:
    """A click is none; an overdriven input is told within ten seconds, and its end too."""
    clipping, told = Clipping(), []
    for second in range(60):
        clipping.add(1_000, {3: 1}.get(second, 50 if 20 <= second < 40 else 0), 1_000)
        told.append(bool(clipping.problem))
    assert told == [False] * 29 + [True] * 20 + [False] * 11
