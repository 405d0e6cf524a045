"""Measures agree with closed forms and with scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.encoder.scores import (
    auroc,
    average_precision,
    bootstrap_interval,
    calibration_error,
    class_mean_average_precision,
    macro_mean,
)


def test_auroc_counts_pairs() -> None:
    """AUROC is the share of pairs in the right order, ties as half."""
    positive, negative = np.array([0.9, 0.5, 0.2]), np.array([0.5, 0.1])
    pairs = [1, 1, 0.5, 1, 0, 1]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_average_precision_of_a_known_ranking() -> None:
    """Positives at ranks 1 and 3 give (1/1 + 2/3) / 2."""
    score, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(score, positive) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_does_not_depend_on_the_order_of_ties() -> None:
    """With all scores equal it is the share of positives, wherever they stand."""
    for first in (True, False):
        positive = np.array([first, not first, False, False])
        assert average_precision(np.ones(4), positive) == pytest.approx(0.25)


def test_cmap_is_the_mean_over_labels_that_occur() -> None:
    """A label without a row is left out; rows of no label are negatives."""
    score = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3], [0.95, 0.3, 0.3]])
    target = np.array([0, 1, -1])
    expected = (0.5 + 1.0) / 2
    assert class_mean_average_precision(score, target, np.arange(3)) == pytest.approx(expected)


def test_calibration_error_of_overconfidence() -> None:
    """Always saying 0.9 and being right half the time is 0.4 off; saying 0.5 is not."""
    right = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.9), right) == pytest.approx(0.4)
    assert calibration_error(np.full(100, 0.5), right) == pytest.approx(0.0)


def test_probability_one_falls_into_the_last_bin() -> None:
    """Certainty that is right costs nothing."""
    assert calibration_error(np.ones(3), np.ones(3, bool)) == pytest.approx(0.0)


def test_macro_weighs_classes_alike() -> None:
    """Ninety right of a common class and none of a rare one are a half."""
    right = np.array([True] * 90 + [False] * 10)
    assert macro_mean(right, np.array([0] * 90 + [3] * 10)) == pytest.approx(0.5)


def test_the_bootstrap_covers_a_known_mean() -> None:
    """Of a fair coin thrown 400 times the interval is about ±0.05 around its mean."""
    right = np.array([True, False] * 200)
    low, high = bootstrap_interval(lambda rows: float(right[rows].mean()), 400)
    assert low == pytest.approx(0.5 - 0.049, abs=0.01)
    assert high == pytest.approx(0.5 + 0.049, abs=0.01)
