"""How a picture is sampled, and sampling it: numpy and torch alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fieldstation.generation.guidance import DenoiseWith, clipped, guided
from fieldstation.generation.schedules import karras_sigmas, linear_sigmas
from fieldstation.generation.solvers import (
    Array,
    Denoise,
    sample_ancestral,
    sample_dpmpp_2m,
    sample_heun,
)
from fieldstation.generator_card import GeneratorCard, check_sampling


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a picture is sampled; it is written into the picture."""

    solver: str
    n_steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float] | None
    sigma_min: float
    sigma_max: float

    @classmethod
    def of_card(cls, card: GeneratorCard) -> Sampling:
        """Return the card's own."""
        return cls(
            card.solver,
            card.n_steps,
            card.guidance_scale,
            card.guidance_interval,
            card.sigma_min,
            card.sigma_max,
        )

    def with_choice(
        self, guidance_scale: float | None = None, n_steps: int | None = None
    ) -> Sampling:
        """Return it with what a person chose.

        Raises:
            ValueError: a choice cannot be meant.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        n_steps = self.n_steps if n_steps is None else n_steps
        check_sampling(n_steps, scale)
        return replace(self, guidance_scale=scale, n_steps=n_steps)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Return the noise levels: the ancestral sampler's are those of its linear schedule."""
        if self.solver == "ancestral":
            return linear_sigmas(self.n_steps)
        return karras_sigmas(self.n_steps, self.sigma_min, self.sigma_max)


def sample(
    denoise_with: DenoiseWith,
    condition: Array,
    null: Array,
    noises: Iterator[Array],
    sampling: Sampling,
) -> Array:
    """Return pictures, float32 [n, 3, side, side], about -1..1; numpy or torch as the arguments.

    Args:
        denoise_with: the network.
        condition: [n, 512].
        null: [512].
        noises: standard normal [n, 3, side, side]: the first is where sampling starts.
        sampling: how.
    """
    sigmas = sampling.sigmas
    denoise = guided(
        denoise_with, condition, null, sampling.guidance_scale, sampling.guidance_interval
    )
    return _solve(denoise, sigmas[0] * next(noises), sigmas, noises, sampling.solver)


def _solve(
    denoise: Denoise, x: Array, sigmas: tuple[float, ...], noises: Iterator[Array], solver: str
) -> Array:
    if solver == "ancestral":
        return sample_ancestral(clipped(denoise), x, sigmas, noises)
    return {"heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}[solver](denoise, x, sigmas)
