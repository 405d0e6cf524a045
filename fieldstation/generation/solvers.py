"""Samplers: plain functions over `denoise(x, sigma)`, for numpy arrays and torch tensors alike.

x is a batch of pictures plus noise of standard deviation sigma; `denoise` returns the pictures it
expects beneath. Nothing here knows networks, conditions or random numbers: whoever calls brings
`x = sigmas[0] * noise`. Only arithmetic is used, so one definition serves every kind of array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from fieldstation.generation.schedules import Sigmas

Array = Any
"""A numpy array or a torch tensor"""
Denoise = Callable[[Array, float], Array]
"""x [n, ...], sigma -> denoised [n, ...]"""


def sample_heun(denoise: Denoise, x: Array, sigmas: Sigmas) -> Array:
    """Return the end of the probability-flow path by Heun's second-order method.

    Calls the denoiser twice a step, once in a step to 0.

    Source: Karras et al. 2022, algorithm 1 with sigma(t) = t, s(t) = 1.
    """
    for sigma, sigma_next in pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        guess = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (guess - denoise(guess, sigma_next)) / sigma_next
            guess = x + (sigma_next - sigma) * (0.5 * slope + 0.5 * slope_next)
        x = guess
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Array, sigmas: Sigmas) -> Array:
    """Return the end of the probability-flow path by DPM-Solver++(2M): one call a step.

    The first step and a step to 0 are of first order; the others extrapolate from the step
    before. With alpha = 1 and lambda = -log sigma, exp(-h) is sigma_next / sigma.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    """
    denoised_before, h_before = None, 0.0
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        ratio = sigma_next / sigma
        expected = denoised
        if sigma_next > 0:
            h = -math.log(ratio)
            if denoised_before is not None:
                share = h / (2 * h_before)
                expected = (1 + share) * denoised - share * denoised_before
            denoised_before, h_before = denoised, h
        x = ratio * x + (1 - ratio) * expected
    return x


def sample_ancestral(denoise: Denoise, x: Array, sigmas: Sigmas, noises: Iterable[Array]) -> Array:
    """Return a sample of the reverse chain: at each step one drawn from the posterior q.

    Ho et al. state the posterior for x̃ = √ā x. With sigma² = (1 - ā) / ā its mean and variance
    (there divided by √ā and ā of the step's end) are

        denoised + sigma_next² / sigma² (x - denoised),   sigma_next² (1 - sigma_next² / sigma²).

    Args:
        denoise: predicts the start; Ho et al. clip it (`guidance.clipped`).
        noises: standard normal, one a step; none is drawn for a step to 0.

    Source: Ho et al. 2020, equations 6 and 7, algorithm 2.
    """
    noises = iter(noises)
    for sigma, sigma_next in pairwise(sigmas):
        denoised = denoise(x, sigma)
        kept = (sigma_next / sigma) ** 2
        x = denoised + kept * (x - denoised)
        if sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - kept) * next(noises)
    return x
