"""Noise levels to sample along, noisiest first, 0 last."""

from __future__ import annotations

import math
from collections.abc import Sequence

Sigmas = Sequence[float]
"""Standard deviations of the noise, falling; the last is 0 where the picture is to be finished"""


def karras_sigmas(
    n_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> tuple[float, ...]:
    """Return `n_steps` levels from `sigma_max` to `sigma_min`, then 0.

    Source: Karras et al. 2022, equation 5.
    """
    _check(n_steps)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min is {sigma_min}, sigma_max {sigma_max}; 0 < min < max")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    steps = max(1, n_steps - 1)
    return (*((high + i / steps * (low - high)) ** rho for i in range(n_steps)), 0.0)


def linear_sigmas(
    n_steps: int,
    n_trained: int = 1000,
    beta_first: float = 1e-4,
    beta_last: float = 0.02,
) -> tuple[float, ...]:
    """Return the levels of a linear variance schedule, evenly respaced to `n_steps`, then 0.

    A picture with noise of variance 1 - ā in a sum of variance 1 is, divided by √ā, one with
    noise of sigma = √((1 - ā) / ā).

    Source: Ho et al. 2020, section 4 (schedule); Nichol & Dhariwal 2021, section 4 (respacing).
    """
    _check(n_steps)
    if n_steps > n_trained:
        raise ValueError(f"n_steps is {n_steps}; the schedule has {n_trained}")
    sigmas, alpha_bar = [], 1.0
    for t in range(n_trained):
        alpha_bar *= 1 - (beta_first + (beta_last - beta_first) * t / max(1, n_trained - 1))
        sigmas.append(math.sqrt((1 - alpha_bar) / alpha_bar))
    gap = (n_trained - 1) / max(1, n_steps - 1)
    return (*(sigmas[n_trained - 1 - round(i * gap)] for i in range(n_steps)), 0.0)


def _check(n_steps: int) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; at least 1")
