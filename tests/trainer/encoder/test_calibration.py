"""Temperature and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.encoder.calibration import (
    MARGIN,
    choose_thresholds,
    fit_temperature,
    golden_section,
    precision_threshold,
)
from trainer.encoder.judging import softmax


def test_the_temperature_that_made_the_logits_is_found() -> None:
    """Targets drawn from softmax(logits) and logits given times three: temperature three."""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((20_000, 5)) * 2
    cumulative = softmax(logits).cumsum(axis=1)
    target = (generator.random((20_000, 1)) > cumulative).sum(axis=1)
    assert fit_temperature(3 * logits, target) == pytest.approx(3.0, rel=0.05)


def test_golden_section_finds_the_least() -> None:
    """A parabola's minimum is found to a thousandth."""
    assert golden_section(lambda x: (x - 0.3) ** 2, -2, 5) == pytest.approx(0.3, abs=1e-3)


def test_the_threshold_is_the_lowest_that_is_precise() -> None:
    """Nine right and one wrong above it reach 0.9; another wrong one below does not."""
    probability = np.linspace(0.95, 0.4, 12)
    right = np.array([True] * 6 + [False] + [True] * 3 + [False] * 2)
    assert precision_threshold(probability, right, 0.9) == pytest.approx(probability[9])


def test_too_few_right_windows_give_no_threshold() -> None:
    """Four right windows are no evidence of a precision."""
    assert precision_threshold(np.linspace(0.9, 0.5, 4), np.ones(4, bool)) is None


def test_no_background_window_reaches_a_threshold() -> None:
    """Thresholds lie above the most bird-like background, and no-bird makes no event."""
    generator = np.random.default_rng(1)
    probabilities = softmax(generator.standard_normal((300, 4)) * 3)
    background = softmax(generator.standard_normal((200, 4)) * 4)
    target = probabilities.argmax(axis=1)
    thresholds = choose_thresholds(probabilities, target, background, [0, 1, 2])
    assert thresholds[3] == 1.0
    for label in range(3):
        assert not (background[:, label] >= thresholds[label]).any() or thresholds[label] == 1.0
        assert thresholds[label] >= min(1.0, background[:, label].max() + MARGIN) - 1e-3
