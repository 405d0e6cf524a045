"""Measures agree with closed forms and with scikit-learn's definitions."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.encoder.scores import auroc, bootstrap_interval, calibration_error, error_of_truth


def test_auroc_counts_pairs() -> None:
    """AUROC is the share of pairs in the right order, ties as half."""
    positive, negative = np.array([0.9, 0.5, 0.2]), np.array([0.5, 0.1])
    pairs = [1, 1, 0.5, 1, 0, 1]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_calibration_error_of_overconfidence() -> None:
    """Always saying 0.9 and being right half the time is 0.4 off; saying 0.5 is not."""
    right = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.9), right) == pytest.approx(0.4)
    assert calibration_error(np.full(100, 0.5), right) == pytest.approx(0.0)


def test_probability_one_falls_into_the_last_bin() -> None:
    """Certainty that is right costs nothing."""
    assert calibration_error(np.ones(3), np.ones(3, bool)) == pytest.approx(0.0)


def test_true_probabilities_err_by_as_much_as_they_are_few() -> None:
    """Ten thousand are even in every bin; where ten of them weigh all, they are as ten."""
    said = np.random.default_rng(0).random(10_000)
    weight = np.where(np.arange(len(said)) < 10, 1.0, 1e-9)
    assert error_of_truth(said) < 0.02
    assert error_of_truth(said, weight) == pytest.approx(error_of_truth(said[:10]), abs=0.05)
    assert error_of_truth(said[:10]) > 0.1


def test_the_bootstrap_covers_a_known_mean() -> None:
    """Of a fair coin thrown 400 times the interval is about ±0.05 around its mean."""
    right = np.array([True, False] * 200)
    low, high = bootstrap_interval(lambda rows: float(right[rows].mean()), 400)
    assert low == pytest.approx(0.5 - 0.049, abs=0.01)
    assert high == pytest.approx(0.5 + 0.049, abs=0.01)
