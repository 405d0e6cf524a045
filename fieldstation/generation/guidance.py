"""From a network with a condition to the `denoise(x, sigma)` that a sampler wants."""

from __future__ import annotations

from collections.abc import Callable

from fieldstation.generation.solvers import Array, Denoise

DenoiseWith = Callable[[Array, float, Array], Array]
"""x [n, 3, side, side], sigma, condition [n, 512] -> denoised [n, 3, side, side]"""


def guided(
    denoise_with: DenoiseWith,
    condition: Array,
    null: Array,
    guidance_scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Denoise:
    """Return the denoiser under classifier-free guidance: D_null + w (D - D_null).

    Both are asked in one batch of 2n. Where w is 1, and outside the interval, D alone is asked.

    Args:
        denoise_with: the network.
        condition: [n, 512].
        null: [512], the absence of a condition.
        guidance_scale: w; 1 is no guidance, 0 no condition.
        interval: the noise levels (sigma) of guidance, ends included; None: all.

    Source: Ho & Salimans 2022, equation 6 with w = 1 + their w; Kynkäänniemi et al. 2024
    (interval).
    """
    low, high = interval or (0.0, float("inf"))

    def denoise(x: Array, sigma: float) -> Array:
        if guidance_scale == 1 or not low <= sigma <= high:
            return denoise_with(x, sigma, condition)
        n = len(x)
        twice = [*range(n), *range(n)]  # indexing is how numpy and torch both repeat and copy
        conditions = condition[twice]
        conditions[n:] = null
        both = denoise_with(x[twice], sigma, conditions)
        return both[n:] + guidance_scale * (both[:n] - both[n:])

    return denoise


def clipped(denoise: Denoise) -> Denoise:
    """Return a denoiser whose pictures stay in -1..1, as Ho et al.'s published sampler has it."""
    return lambda x, sigma: denoise(x, sigma).clip(-1, 1)


class Counted:
    """A network that counts what it costs: one a picture and call, two under guidance."""

    def __init__(self, denoise_with: DenoiseWith) -> None:
        self._denoise_with = denoise_with
        self.n_calls = 0

    def __call__(self, x: Array, sigma: float, condition: Array) -> Array:
        """Denoise, and count."""
        self.n_calls += len(x)
        return self._denoise_with(x, sigma, condition)
