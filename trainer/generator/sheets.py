"""Pictures of a generator in training, and how well it cleans photographs it never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldstation.generation.guidance import DenoiseWith
from fieldstation.generation.noise import noises_for
from fieldstation.generation.painter import to_pixels
from fieldstation.generation.pictures import grid
from fieldstation.generation.sampling import Sampling, sample
from trainer.generator.course import Lessons, pixels_of, representative_rows
from trainer.generator.diffusion import Denoiser, Edm
from trainer.generator.profiles import Profile
from trainer.generator.training import Generator, Progress, autocast

SIGMAS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise levels at which trainings are compared"""
N_VALIDATION = 128
"""Photographs: enough to see a tenth of a percent between two checkpoints of one training"""
N_A_SPECIES = 4
N_SPECIES = 16
SHEET_STEPS = 16
GAP = 2
"""Pixels between two pictures"""

Pictures = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is looked at every time: the same photographs, noise, calls and seeds."""

    lessons: Lessons
    profile: Profile
    device: torch.device
    precision: torch.dtype
    folder: Path

    def __call__(self, generator: Generator, progress: Progress) -> Mapping[str, float]:
        """Measure on `val` and write a sheet of samples."""
        where = self.folder / "sheets" / f"{progress.images_seen:08d}.png"
        where.parent.mkdir(parents=True, exist_ok=True)
        painted = [Image.fromarray(picture) for picture in self.samples(generator)]
        grid(painted, 2 * N_A_SPECIES, GAP).save(where)
        return validate(generator, self.lessons, self.device, self.precision)

    def samples(self, generator: Generator) -> Pictures:
        """Return pictures of the sheet's species, `N_A_SPECIES` of each."""
        species = sheet_species(self.lessons)
        condition = torch.cat([self._conditions(generator, s) for s in species])
        seeds = [*range(N_A_SPECIES)] * len(species)
        network = denoise_with(generator.denoiser, self.device, self.precision)
        return paint(network, condition, generator.null, seeds, sampling_of(self.profile))

    def _conditions(self, generator: Generator, species: int) -> Tensor:
        if not self.lessons.heard(species):
            return generator.labels[[species] * N_A_SPECIES].detach()
        rows = representative_rows(self.lessons, species, N_A_SPECIES)
        return torch.from_numpy(self.lessons.conditions[rows]).to(self.device)


def sampling_of(profile: Profile) -> Sampling:
    """Return how sheets are sampled: alike for all profiles, but for guidance and noise levels.

    The paper's own sampler would take a quarter of its training's time.
    """
    return Sampling(
        "dpmpp_2m",
        SHEET_STEPS,
        profile.guidance_scale,
        profile.guidance_interval,
        *profile.sigma_range,
    )


def denoise_with(
    denoiser: Denoiser, device: torch.device, precision: torch.dtype = torch.float32
) -> DenoiseWith:
    """Return a network as the samplers want it."""

    @torch.inference_mode()
    def denoise(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
        with autocast(device, precision):
            denoised: Tensor = denoiser(x, torch.full((len(x),), sigma, device=device), condition)
        return denoised

    return denoise


def paint(
    network: DenoiseWith,
    condition: Tensor,
    null: Tensor,
    seeds: Sequence[int],
    sampling: Sampling,
    at_once: int = 64,
) -> Pictures:
    """Return pictures uint8 [n, 64, 64, 3] of conditions and seeds."""
    painted = []
    for first in range(0, len(seeds), at_once):
        part = slice(first, first + at_once)
        noises = tensors(seeds[part], condition.device)
        x = sample(network, condition[part].detach(), null.detach(), noises, sampling)
        painted.append(to_pixels(x.float().cpu().numpy()))
    return np.concatenate(painted)


def tensors(seeds: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    """Yield the station's noise of these seeds as tensors."""
    return (torch.from_numpy(noise).to(device) for noise in noises_for(seeds, (3, 64, 64)))


def validate(
    generator: Generator, lessons: Lessons, device: torch.device, precision: torch.dtype
) -> dict[str, float]:
    """Return the mean squared error of clean photographs of `val`, by noise level.

    Pixels are in -1..1. Each photograph is cleaned with a call of its species (its label vector
    where it has none); `val_loss` is the mean over levels with EDM's weight, for every profile.
    """
    chosen = _evenly(lessons.validation, N_VALIDATION)
    if not len(chosen):
        return {}
    errors = {}
    clean = torch.from_numpy(pixels_of(lessons, chosen)).to(device)
    noise = next(tensors(range(len(chosen)), device))
    condition = _conditions_of(generator, lessons, chosen, device)
    network = denoise_with(generator.denoiser, device, precision)
    for sigma in SIGMAS:
        denoised = _in_parts(network, clean + sigma * noise, sigma, condition)
        errors[f"val_mse_{sigma:g}"] = float((denoised - clean).square().mean())
    weights = Edm(sigma_data=0.5).weight(torch.tensor(SIGMAS)).tolist()
    scaled = [weight * error for weight, error in zip(weights, errors.values(), strict=True)]
    return {**errors, "val_loss": float(np.mean(scaled))}


def sheet_species(lessons: Lessons) -> list[int]:
    """Return the species of a sheet: those with most photographs, calls first."""
    counts = np.bincount(
        lessons.species_of_image[lessons.groups["garden"]], minlength=len(lessons.species)
    )
    order = sorted(np.flatnonzero(counts), key=lambda s: (not lessons.heard(int(s)), -counts[s], s))
    return [int(s) for s in order[:N_SPECIES]]


def _conditions_of(
    generator: Generator, lessons: Lessons, image: NDArray[np.int64], device: torch.device
) -> Tensor:
    conditions = []
    for species in lessons.species_of_image[image].tolist():
        if lessons.heard(species):
            row = representative_rows(lessons, species, 1)
            conditions.append(torch.from_numpy(lessons.conditions[row]).to(device))
        else:
            conditions.append(generator.labels[[species]].detach())
    return torch.cat(conditions)


def _in_parts(run: DenoiseWith, x: Tensor, sigma: float, condition: Tensor, n: int = 32) -> Tensor:
    parts = [run(x[i : i + n], sigma, condition[i : i + n]) for i in range(0, len(x), n)]
    return torch.cat(parts)


def _evenly(indices: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return about n of many, spread over all."""
    return indices[:: max(1, -(-len(indices) // n))]
