"""From calls and seeds to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError
from fieldstation.generation.conditions import Call, card_of, condition_of, load_conditions
from fieldstation.generation.denoiser import Denoiser, PaintingError
from fieldstation.generation.golden import load_generator_golden
from fieldstation.generation.guidance import Counted
from fieldstation.generation.noise import noises_for
from fieldstation.generation.sampling import Sampling, sample

AT_ONCE = 8
"""Pictures in one batch: more are no quicker on a CPU and want more memory"""

LEAST_PSNR = 45.0
"""Decibels between the same picture on two machines; 8 bits alone allow 59"""

Floats = NDArray[np.float32]
Pictures = NDArray[np.uint8]
"""uint8 [n, side, side, 3], red green blue"""


class Painter:
    """A bundle's generator at work."""

    def __init__(self, bundle: Bundle, denoiser: Denoiser) -> None:
        """Read the bundle's conditions.

        Raises:
            BundleError: the bundle does not paint, or conditions.npz is damaged.
        """
        self.card = card_of(bundle)
        self.sampling = Sampling.of_card(self.card)
        self.denoiser = denoiser
        self.n_network_calls = 0
        """So far; a guided call of one picture counts two"""
        self.conditions = load_conditions(bundle)

    def condition_of(self, call: Call) -> Floats:
        """Return what a call is painted from, float32 [512].

        Raises:
            Unpaintable: the species is not painted, or the embedding is another encoder's.
        """
        return condition_of(call, self.conditions, self.card)

    def paint(
        self,
        conditions: Floats,
        seeds: Sequence[int],
        guidance_scale: float | None = None,
        n_steps: int | None = None,
    ) -> Pictures:
        """Return a picture for each condition and seed, uint8 [n, side, side, 3].

        Args:
            conditions: float32 [n, 512].
            seeds: n of them, 0..2⁵³ - 1; the same seed and condition give the same picture.
            guidance_scale: instead of the card's.
            n_steps: instead of the card's.

        Raises:
            ValueError: a choice or a seed that cannot be meant.
            PaintingError: the denoiser failed.
        """
        if len(conditions) != len(seeds):
            raise ValueError(f"{len(conditions)} conditions for {len(seeds)} seeds")
        sampling = self.sampling.with_choice(guidance_scale, n_steps)
        batches = [slice(i, i + AT_ONCE) for i in range(0, len(seeds), AT_ONCE)]
        painted = [self._paint(conditions[part], seeds[part], sampling) for part in batches]
        side = self.card.image_size
        return np.concatenate([np.empty((0, side, side, 3), np.uint8), *painted])

    def _paint(self, condition: Floats, seeds: Sequence[int], sampling: Sampling) -> Pictures:
        side = self.card.image_size
        network = Counted(self.denoiser)
        noises = noises_for(seeds, (3, side, side))
        x = sample(network, condition, self.conditions.null, noises, sampling)
        self.n_network_calls += network.n_calls
        if not np.isfinite(x).all():
            raise PaintingError(f"seeds {list(seeds)} gave pixels that are not finite")
        return to_pixels(x)


def to_pixels(x: Floats) -> Pictures:
    """Return pictures float32 [n, 3, side, side] in -1..1 as uint8 [n, side, side, 3]."""
    pixels = np.rint((x.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def psnr(pictures: Pictures, expected: Pictures) -> float:
    """Return the peak signal-to-noise ratio of pictures in decibels; infinite where equal."""
    error = float(np.mean((pictures.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def check_picture(painter: Painter, bundle: Bundle) -> float:
    """Paint the bundle's golden picture; return its PSNR to what it must be, in decibels.

    Raises:
        BundleError: it is another picture.
    """
    golden = load_generator_golden(bundle)
    painted = painter.paint(golden.picture_condition[None], [golden.picture_seed])[0]
    similarity = psnr(painted, golden.picture)
    if similarity < LEAST_PSNR:
        raise BundleError(
            f"{bundle.path}: the golden picture comes out {similarity:.1f} dB from what it must "
            f"be on {painter.denoiser.provider}; at least {LEAST_PSNR:g}: fetch the bundle again"
        )
    return similarity
