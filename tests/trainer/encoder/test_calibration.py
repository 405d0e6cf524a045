"""Temperature, offsets and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.encoder.calibration import (
    MARGIN,
    THRESHOLD_RANGE,
    choose_thresholds,
    cross_fitted_error,
    fit_peaks,
    fit_scale,
    fit_temperature,
    golden_section,
    is_label,
    peaks_of,
    precision_threshold,
)
from trainer.encoder.judging import sigmoid, softmax


def test_the_temperature_that_made_the_logits_is_found() -> None:
    """Targets drawn from softmax(logits) and logits given times three: temperature three."""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((20_000, 5)) * 2
    cumulative = softmax(logits).cumsum(axis=1)
    target = (generator.random((20_000, 1)) > cumulative).sum(axis=1)
    assert fit_temperature(3 * logits, target, np.ones(20_000)) == pytest.approx(3.0, rel=0.05)


def test_the_scale_that_made_the_peaks_is_found() -> None:
    """Labels drawn from σ(z/2 + offset): temperature and offsets come back."""
    generator = np.random.default_rng(1)
    peaks = generator.standard_normal((20_000, 3)) * 4
    offsets = np.array([0.2, -0.1, 0.5])
    right = generator.random(peaks.shape) < sigmoid(peaks / 2 + offsets)
    scale = fit_peaks(peaks, right, np.ones(len(peaks)))
    assert scale.temperature == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(scale.offsets, offsets, atol=0.08)


def test_offsets_of_few_recordings_are_shrunk() -> None:
    """Four recordings that all say the same move a label's offset by less than a thousand do."""
    generator = np.random.default_rng(2)
    deviation = []
    for n in (4, 1000):
        peaks = generator.standard_normal((n, 2))
        right = np.stack([np.ones(n), generator.random(n) < 0.5], axis=1).astype(bool)
        offsets = fit_peaks(peaks, right, np.ones(len(peaks))).offsets
        deviation.append(offsets[0] - offsets[1])
    assert 0 < deviation[0] < deviation[1]


def test_a_peak_is_the_highest_window() -> None:
    """Of each label in each recording."""
    values = np.array([[0.1, 0.9], [0.4, 0.2], [0.3, 0.3]])
    np.testing.assert_array_equal(peaks_of(values, np.array([0, 0, 1])), [[0.4, 0.9], [0.3, 0.3]])


def test_no_label_is_right_for_background() -> None:
    """Target -1 is none of the labels."""
    np.testing.assert_array_equal(is_label(np.array([1, -1]), 2), [[False, True], [False, False]])


def test_golden_section_finds_the_least() -> None:
    """A parabola's minimum is found to a thousandth."""
    assert golden_section(lambda x: (x - 0.3) ** 2, -2, 5) == pytest.approx(0.3, abs=1e-3)


def test_well_scaled_peaks_have_a_small_error() -> None:
    """Logits that mean what they say but for a factor are calibrated across halves."""
    generator = np.random.default_rng(3)
    truth = generator.standard_normal((8000, 1)) * 3 - 1
    target = np.where(generator.random(8000) < sigmoid(truth[:, 0]), 0, -1)
    recording, even = np.arange(8000), np.ones(8000)
    assert fit_scale(3 * truth, recording, target, even, "sigmoid").temperature == pytest.approx(
        3, rel=0.1
    )
    found = cross_fitted_error(3 * truth, recording, target, even, "sigmoid")
    assert found is not None
    assert found.floor < 0.03
    assert found.error == pytest.approx(found.floor, abs=0.01)


def test_where_nothing_is_heard_there_is_no_error_to_tell() -> None:
    """No peak that could be an event: no share of them is right or wrong."""
    silent, none = np.full((40, 2), -30.0), np.full(40, -1)
    assert cross_fitted_error(silent, np.arange(40), none, np.ones(40), "sigmoid") is None


def test_the_threshold_is_the_lowest_that_is_precise() -> None:
    """Eighteen right and two wrong above it reach 0.9; further wrong ones below do not."""
    probability = np.linspace(0.95, 0.4, 24)
    right = np.array(([True] * 9 + [False]) * 2 + [False] * 4)
    assert precision_threshold(probability, right, np.ones(24), 0.9) == pytest.approx(
        probability[19]
    )


def test_a_threshold_counts_by_weight() -> None:
    """Wrong events that hardly count do not raise it."""
    probability = np.linspace(0.95, 0.4, 24)
    right = np.array([True, False] * 12)
    weight = np.where(right, 1.0, 0.01)
    assert precision_threshold(probability, right, weight, 0.9) == pytest.approx(0.4)


def test_too_few_right_events_give_no_threshold() -> None:
    """Four right events are no evidence of a precision."""
    assert precision_threshold(np.linspace(0.9, 0.5, 4), np.ones(4, bool), np.ones(4)) is None


def test_no_background_window_reaches_a_threshold() -> None:
    """Thresholds lie above the most bird-like background, and no-bird makes no event."""
    generator = np.random.default_rng(1)
    peaks = softmax(generator.standard_normal((300, 4)) * 3)
    background = softmax(generator.standard_normal((200, 4)) * 2)
    thresholds = choose_thresholds(peaks, peaks.argmax(axis=1), np.ones(300), background, [0, 1, 2])
    assert thresholds[3] == 1.0
    for label in range(3):
        loudest = background[:, label].max()
        assert min(loudest + MARGIN, (1 + loudest) / 2) - 1e-4 <= thresholds[label] <= 1.0
        assert thresholds[label] >= THRESHOLD_RANGE[0]
