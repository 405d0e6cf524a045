"""Profiles and sizes of the generator: what `--profile` and `--size` name. Needs torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from trainer.generator.augmentation import Augmentation
from trainer.generator.diffusion import Ddpm, Diffusion, Edm, LogNormal
from trainer.generator.networks import UNetConfig

CONDITIONS = ("embedding", "label", "mel")
Named = TypeVar("Named")


@dataclass(frozen=True, slots=True)
class Profile:
    """How a generator is made and trained."""

    name: str
    images_seen: int
    """Pre-training included, unless the command line says otherwise"""
    noise: LogNormal | None
    """Levels trained on, with EDM's preconditioning; None: the paper's steps, and its ε"""
    sizes: Mapping[str, UNetConfig]
    pairing: str
    """`drawn`: any call of a species with any photograph of it; `circular`: the paper's"""
    augmentation: Augmentation | None
    dropout: float
    batch_size: int
    learning_rate: float
    warmup_images: int
    """In which the rate rises"""
    cooldown_share: float
    """Of all images, at the end, over which the rate falls"""
    label_share: float
    """Of training where the species' vector stands in for the embedding"""
    null_share: float
    """Of training without any condition (Ho & Salimans 2022)"""
    class_power: float
    """A species with n photographs is drawn n^power times as often as one with one"""
    pretrain_share: float
    """Of all images, seen before the garden's own"""
    half_share: float
    """Of all images, at the beginning, seen at half their side"""
    average_width: float
    """Of the weights' power-function average, as a share of the training"""
    solver: str
    n_steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float] | None
    """Noise levels at which guidance is worth its second call (Kynkäänniemi et al. 2024)"""
    sigma_range: tuple[float, float]
    """Noise levels between which is sampled; the ancestral sampler has its schedule's"""


SIZES = {
    "nano": UNetConfig((64, 128, 256), n_blocks=1, n_attending=1),
    "small": UNetConfig((192, 192, 192), n_blocks=2, n_attending=2, n_embedding=512),
    "base": UNetConfig((352, 256, 192), n_blocks=2, n_attending=2, n_embedding=512),
}
"""1.12, 6.4 and 18 GMAC a call (`python bench/generator_step.py --size …`)"""
LIKE_MINIMAGEN = {
    "nano": UNetConfig((64, 128, 192), n_blocks=1, n_attending=2, learnt_resampling=True),
    "small": UNetConfig(
        (160, 192, 192), n_blocks=2, n_attending=2, n_embedding=512, learnt_resampling=True
    ),
    "base": UNetConfig(
        (320, 256, 192), n_blocks=2, n_attending=2, n_embedding=512, learnt_resampling=True
    ),
}
"""Resampled by learnt convolutions, attention one resolution further up; 1.23, 5.5 and
17 GMAC a call"""

PROFILES = {
    "paper": Profile(
        name="paper",
        images_seen=100_000,
        noise=None,
        sizes=LIKE_MINIMAGEN,
        pairing="circular",
        augmentation=None,
        dropout=0.0,
        batch_size=16,
        learning_rate=3e-4,
        warmup_images=5_000,
        cooldown_share=0.0,
        label_share=0.0,
        null_share=0.1,
        class_power=1.0,
        pretrain_share=0.0,
        half_share=0.0,
        average_width=0.05,
        solver="ancestral",
        n_steps=1000,
        guidance_scale=2.0,
        guidance_interval=None,
        sigma_range=(0.01, 157.0),
    ),
    "field": Profile(
        name="field",
        images_seen=400_000,
        noise=LogNormal(-0.8, 1.2),
        sizes=SIZES,
        pairing="drawn",
        augmentation=Augmentation(),
        dropout=0.1,
        batch_size=16,
        learning_rate=3e-4,
        warmup_images=5_000,
        cooldown_share=0.25,
        label_share=0.15,
        null_share=0.15,
        class_power=0.5,
        pretrain_share=0.4,
        half_share=0.7,
        average_width=0.05,
        # Chosen by bench/sampling.py: docs/experiments.md, "How the shipped generator samples".
        solver="ancestral",
        n_steps=21,
        guidance_scale=6.0,
        guidance_interval=(0.3, 10.0),
        sigma_range=(0.002, 80.0),
    ),
}


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        ValueError: there is none of that name.
    """
    return _named("profile", name, PROFILES)


def diffusion_of(profile: Profile, sigma_data: float) -> Diffusion:
    """Return how a profile makes noisy and cleans.

    Args:
        sigma_data: standard deviation of the images' pixels, in -1..1.
    """
    if profile.noise is None:
        return Ddpm()
    return Edm(sigma_data, profile.noise)


def config_named(profile: Profile, size: str) -> UNetConfig:
    """Return the network of a profile's size.

    Raises:
        ValueError: there is none of that name.
    """
    return replace(_named("size", size, profile.sizes), dropout=profile.dropout)


def _named(what: str, name: str, known: Mapping[str, Named]) -> Named:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
    raise ValueError(f"{what} is {name!r}; {hint}")
