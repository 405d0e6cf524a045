"""Measures of a classifier, each a plain function of arrays, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trainer.encoder.judging import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

N_RESAMPLES = 2000
LEVEL = 0.95
N_BINS = 15
"""Of the calibration error; the usual number since Guo et al. 2017"""


def bootstrap_interval(
    statistic: Callable[[Ints], float], n_units: int, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over resampled units.

    Args:
        statistic: of the indices of the drawn units.
        n_units: independent units: recordings, never windows of one recording.
    """
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, n_units, (N_RESAMPLES, n_units))
    values = [statistic(draw) for draw in draws]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def auroc(positive: Floats, negative: Floats) -> float:
    """Return how often a positive scores above a negative, ties as half (Mann-Whitney)."""
    below = np.searchsorted(np.sort(negative), positive, side="left")
    not_above = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def calibration_error(probability: Floats, right: Bools, weight: Floats | None = None) -> float:
    """Return the expected calibration error over `N_BINS` equal bins, rows by weight."""
    place = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    counts = np.ones(len(place)) if weight is None else weight
    said = np.bincount(place, weights=counts * probability, minlength=N_BINS)
    was = np.bincount(place, weights=counts * right, minlength=N_BINS)
    return float(abs(said - was).sum() / counts.sum())


def error_of_truth(probability: Floats, weight: Floats | None = None, n_draws: int = 200) -> float:
    """Return the calibration error that probabilities show on average when they are all true.

    Bins of few are never even: below this no model comes but by chance. Source: consistency
    resampling, Bröcker & Smith 2007.
    """
    generator = np.random.default_rng(0)
    draws = (generator.random(len(probability)) < probability for _ in range(n_draws))
    return float(np.mean([calibration_error(probability, draw, weight) for draw in draws]))
