"""Distances between sets of pictures, held against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

scipy = pytest.importorskip("scipy", reason="needs the extra 'train'")

from trainer.evaluation.distances import (  # noqa: E402
    frechet_distance,
    kernel_distance,
    nearest,
    precision_and_recall,
)


def normal(n: int, n_values: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return (shift + scale * chance.standard_normal((n, n_values))).astype(np.float32)


def test_the_frechet_distance_is_that_of_two_normal_distributions() -> None:
    """For N(0, 1) and N(m, s²) in d dimensions it is d (m² + (1 - s)²)."""
    one, other = normal(20_000, 6, 0), normal(20_000, 6, 1, scale=1.5, shift=0.4)
    assert frechet_distance(one, other) == pytest.approx(6 * (0.4**2 + 0.5**2), rel=0.05)


def test_the_frechet_distance_is_exact_with_fewer_pictures_than_values() -> None:
    """The covariances are singular then: held against the matrix square root, regularised."""
    one, other = normal(40, 64, 0), normal(40, 64, 1, scale=1.3)
    tiny = 1e-9 * np.eye(64)
    first, second = (np.cov(x.T) + tiny for x in (one, other))
    root = scipy.linalg.sqrtm(first @ second).real
    shift = one.mean(axis=0) - other.mean(axis=0)
    expected = shift @ shift + np.trace(first + second - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-3)


def test_the_frechet_distance_of_a_set_to_itself_is_nothing() -> None:
    """Whatever the rank."""
    one = normal(30, 100, 3)
    assert abs(frechet_distance(one, one)) < 1e-3


def test_the_kernel_distance_is_unbiased() -> None:
    """Between halves of one distribution it is nothing on average; between two it is not."""
    same = [kernel_distance(normal(80, 8, i), normal(80, 8, 100 + i)) for i in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    assert kernel_distance(normal(80, 8, 0), normal(80, 8, 1, shift=1.0)) > max(same)


def test_collapse_costs_recall_and_noise_costs_precision() -> None:
    """One picture again and again is among the real ones, and they are not among it."""
    real = normal(300, 4, 0)
    collapsed = np.tile(real[np.abs(real).sum(axis=1).argmin()], (300, 1)) + normal(300, 4, 1, 1e-4)
    precision, recall = precision_and_recall(collapsed, real)
    assert precision > 0.95
    assert recall < 0.05
    precision, recall = precision_and_recall(normal(300, 4, 2, shift=8.0), real)
    assert precision == recall == 0.0


def test_a_copy_has_no_distance() -> None:
    """The nearest of several sets counts."""
    known = normal(20, 5, 0)
    assert nearest(known[3:4], [normal(20, 5, 1), known]) == pytest.approx([0.0], abs=1e-3)
