"""How freely labels may differ is judged by recordings that no scale was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from bench.offset_spread import Heard, cross_fitted, judged, mean_of, splits

N_LABELS = 4


def heard(n: int, apart: float, seed: int = 0) -> Heard:
    """Return one-window recordings whose labels' logits lie up to `apart` from the truth."""
    generator = np.random.default_rng(seed)
    target = np.arange(n) % N_LABELS
    logits = generator.normal(-3.0, 1.0, (n, N_LABELS))
    logits[np.arange(n), target] += 3.0
    logits += np.linspace(-apart, apart, N_LABELS)
    return Heard(logits, np.arange(n), target, np.ones(n), list(range(N_LABELS)))


def loss(of: Heard, spread: float) -> float:
    """Return the mean log loss of all splits."""
    return mean_of(splits(of, spread))["log_loss"]


def test_where_labels_are_alike_a_narrow_spread_errs_least() -> None:
    """Twelve recordings of each say nothing about how labels differ, if they do not."""
    alike = heard(48, apart=0.0)
    assert loss(alike, 0.1) < loss(alike, 2.0)


def test_where_labels_differ_a_wide_spread_errs_least() -> None:
    """Four logits from the lowest to the highest, and recordings enough to see them."""
    different = heard(400, apart=2.0)
    assert loss(different, 2.0) < loss(different, 0.001)


def test_no_recording_is_judged_by_a_scale_that_knew_it() -> None:
    """Another target of one recording changes what is said of others, never of itself."""
    of = heard(40, apart=1.0)
    order = np.random.default_rng(1).permutation(40)
    before = cross_fitted(of, order, 1.0)
    of.target[7] = (of.target[7] + 1) % N_LABELS
    after = cross_fitted(of, order, 1.0)
    same_fold = order % 5 == order[7] % 5
    np.testing.assert_array_equal(before[same_fold], after[same_fold])
    assert (before[~same_fold] != after[~same_fold]).any(axis=1).all()


def test_what_is_told_is_of_species_and_by_recording() -> None:
    """A recording of no label counts in the loss, not among the names."""
    of = Heard(
        np.zeros((3, 2)), np.array([0, 0, 1]), np.array([0, -1]), np.array([1.0, 3.0]), [0, 1]
    )
    said = np.array([[0.9, 0.2], [0.1, 0.3], [0.2, 0.2]])
    report = judged(of, said)
    assert report["window_top1"] == pytest.approx(0.5)
    assert report["recording_top1"] == pytest.approx(1.0)
    first = -np.log(0.9) - np.log(0.7)
    second = -2 * np.log(0.8)
    assert report["log_loss"] == pytest.approx((first + 3 * second) / 4)
