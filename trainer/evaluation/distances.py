"""Distances between two sets of pictures, counted in a network's features. Arrays in, numbers out.

Sources: FID, Heusel et al. 2017; KID, Bińkowski et al. 2018; precision and recall,
Kynkäänniemi et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

N_NEIGHBOURS = 3
SUBSET = 100
"""Pictures in each of the subsets that KID's spread is taken over"""

Features = NDArray[np.float32]
Floats = NDArray[np.float64]


def frechet_distance(one: Features, other: Features) -> float:
    """Return the distance of two normal distributions: |μ₁-μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½).

    With fewer pictures than values the covariances are singular, and the distance is far from
    nothing even between two halves of the same set: compare only at equal counts, and beside it.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    difference = a.mean(axis=0) - b.mean(axis=0)
    # tr (Σ₁Σ₂)^½ is the sum of the singular values of the product of the two centred sets: exact
    # where a matrix square root of rank-deficient covariances is not, and of the size of the sets.
    roots = [_root((x - x.mean(axis=0)) / np.sqrt(len(x) - 1)) for x in (a, b)]
    shared = scipy.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(float(np.square(root).sum()) for root in roots)
    return float(difference @ difference + spread - 2 * shared)


def kernel_distance(one: Features, other: Features) -> float:
    """Return the unbiased squared maximum mean discrepancy of k(x, y) = (x·y / values + 1)³."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    within = [_off_diagonal_mean(_kernel(x, x)) for x in (a, b)]
    return float(within[0] + within[1] - 2 * _kernel(a, b).mean())


def kernel_distances(
    one: Features, other: Features, n_subsets: int, chance: np.random.Generator
) -> Floats:
    """Return the kernel distance of random subsets of both, [subsets]: its mean and its spread."""
    size = min(SUBSET, len(one), len(other))

    def subset(features: Features) -> Features:
        return features[chance.choice(len(features), size, replace=False)]

    return np.array([kernel_distance(subset(one), subset(other)) for _ in range(n_subsets)])


def precision_and_recall(generated: Features, real: Features) -> tuple[float, float]:
    """Return the share of generated pictures among the real, and of real among the generated.

    A picture is among others where it lies nearer to one of them than that one's third neighbour.
    """
    return _share_within(generated, real), _share_within(real, generated)


def nearest(features: Features, others: Sequence[Features]) -> Floats:
    """Return each picture's distance to the nearest of several sets of others, [n]."""
    distances = [np.sqrt(_squared_distances(features, o).min(axis=1)) for o in others]
    shortest: Floats = np.min(distances, axis=0)
    return shortest


def _root(centred: Floats) -> Floats:
    """Return a matrix R of the fewest rows with RᵀR the covariance."""
    n, n_values = centred.shape
    if n <= n_values:
        return centred
    triangle: Floats = np.linalg.qr(centred).R
    return triangle


def _share_within(features: Features, others: Features) -> float:
    among = np.sort(_squared_distances(others, others), axis=1)
    radius = among[:, min(N_NEIGHBOURS, len(others) - 1)]  # the 0th is the picture itself
    within = _squared_distances(features, others) <= radius[None, :]
    return float(within.any(axis=1).mean())


def _squared_distances(one: Features, other: Features) -> Floats:
    a, b = one.astype(np.float64), other.astype(np.float64)
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None, :] - 2 * a @ b.T
    clipped: Floats = np.maximum(squared, 0.0)
    return clipped


def _kernel(a: Floats, b: Floats) -> Floats:
    product: Floats = (a @ b.T / a.shape[1] + 1) ** 3
    return product


def _off_diagonal_mean(kernel: Floats) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
