"""The card of a bundle's generator: for which encoder it was made, what it paints, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SOLVERS = ("dpmpp_2m", "heun", "ancestral")
TOLERANCE = {"CPUExecutionProvider": 1e-3, "CUDAExecutionProvider": 1e-2}
MAX_STEPS = 1000
MAX_GUIDANCE = 20.0
IMAGE_SIZES = (8, 512)


@dataclass(frozen=True, slots=True)
class GeneratorCard:
    """The object `generator` of bundle.json."""

    encoder_id: str
    """Of the encoder whose embeddings are its conditions; another's are refused"""
    paints: tuple[str, ...]
    """Scientific names of the species that it learnt to paint"""
    generator_id: str = ""
    """First 16 hexadecimal digits of the sha256 of denoiser.onnx followed by conditions.npz"""
    image_size: int = 64
    """Pixels a side"""
    profile: str = "field"
    size: str = "nano"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    """Noise levels between which it samples, in units of a pixel in -1..1"""
    solver: str = "dpmpp_2m"
    n_steps: int = 16
    guidance_scale: float = 1.0
    """1 is the conditional denoiser alone"""
    guidance_interval: tuple[float, float] | None = None
    """Noise levels (sigma) between which guidance acts, ends included; None: everywhere"""
    licence: str = "unknown"
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict(TOLERANCE))
    """Largest |Δdenoised| of the golden check, per onnxruntime provider"""


def read_card(raw: Mapping[str, Any]) -> GeneratorCard:
    """Return the card that the object describes.

    Raises:
        KeyError: an entry that must be there is not.
        TypeError, ValueError, AttributeError: an entry is wrong; the text says which.
    """
    interval = raw.get("guidance_interval")
    card = GeneratorCard(
        encoder_id=str(raw["encoder_id"]),
        paints=tuple(map(str, raw["paints"])),
        generator_id=str(raw["generator_id"]),
        image_size=int(raw["image_size"]),
        profile=str(raw["profile"]),
        size=str(raw["size"]),
        sigma_min=float(raw["sigma_min"]),
        sigma_max=float(raw["sigma_max"]),
        solver=str(raw["solver"]),
        n_steps=int(raw["n_steps"]),
        guidance_scale=float(raw["guidance_scale"]),
        guidance_interval=None if interval is None else _pair(interval),
        licence=str(raw.get("licence", "unknown")),
        trained_on=dict(raw.get("trained_on", {})),
        metrics=dict(raw.get("metrics", {})),
        tolerance=TOLERANCE
        | {name: float(value) for name, value in raw.get("tolerance", {}).items()},
    )
    check_card(card)
    return card


def check_card(card: GeneratorCard) -> None:
    """Check that the values can be meant.

    Raises:
        ValueError: one cannot; the text says which and what it may be.
    """
    least, most = IMAGE_SIZES
    if not least <= card.image_size <= most:
        raise ValueError(f"image_size is {card.image_size}; {least} to {most}")
    if not card.paints or len(set(card.paints)) != len(card.paints):
        raise ValueError(f"paints must name species once each, at least one: {list(card.paints)}")
    if not 0 < card.sigma_min < card.sigma_max < math.inf:
        raise ValueError(f"sigma_min {card.sigma_min} must lie between 0 and sigma_max")
    if card.solver not in SOLVERS:
        raise ValueError(f"solver is {card.solver!r}; one of {', '.join(SOLVERS)}")
    check_sampling(card.n_steps, card.guidance_scale)
    if card.guidance_interval and not 0 <= card.guidance_interval[0] < card.guidance_interval[1]:
        raise ValueError(f"guidance_interval is {list(card.guidance_interval)}; low before high")
    if not all(tolerance > 0 for tolerance in card.tolerance.values()):
        raise ValueError(f"tolerance {dict(card.tolerance)} must be above 0")


def check_sampling(n_steps: int, guidance_scale: float) -> None:
    """Check what a person may choose for each picture.

    Raises:
        ValueError: it cannot be meant.
    """
    if not 1 <= n_steps <= MAX_STEPS:
        raise ValueError(f"n_steps is {n_steps}; 1 to {MAX_STEPS}")
    if not 0 <= guidance_scale <= MAX_GUIDANCE:
        raise ValueError(f"guidance_scale is {guidance_scale}; 0 to {MAX_GUIDANCE:g}")


def _pair(values: Any) -> tuple[float, float]:
    low, high = map(float, values)
    return low, high
