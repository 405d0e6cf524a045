"""The golden check of a generator: an input, and what its maker's machine made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import GENERATOR_GOLDEN, Bundle, BundleError, read_arrays
from fieldstation.generation.conditions import CONDITION, card_of

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GeneratorGolden:
    """The arrays of generator_golden.npz."""

    x: Floats
    """float32 [n, 3, side, side], noisy pictures"""
    sigma: Floats
    """float32 [n]"""
    condition: Floats
    """float32 [n, 512]"""
    denoised: Floats
    """float32 [n, 3, side, side]"""
    picture_condition: Floats
    """float32 [512]"""
    picture_seed: int
    picture: NDArray[np.uint8]
    """uint8 [side, side, 3], what the card's sampler makes of the two lines above"""


def load_generator_golden(bundle: Bundle) -> GeneratorGolden:
    """Read generator_golden.npz.

    Raises:
        BundleError: the bundle does not paint, or the file is missing, damaged or of other shapes.
    """
    side = card_of(bundle).image_size
    path = bundle.path / GENERATOR_GOLDEN
    names = ("x", "sigma", "condition", "denoised", "picture_condition")
    arrays = read_arrays(
        path,
        {**dict.fromkeys(names, np.float32), "picture_seed": np.int64, "picture": np.uint8},
    )
    n = len(arrays["sigma"]) if arrays["sigma"].ndim else 0
    shapes = {
        "x": (n, 3, side, side),
        "sigma": (n,),
        "condition": (n, CONDITION),
        "denoised": (n, 3, side, side),
        "picture_condition": (CONDITION,),
        "picture_seed": (),
        "picture": (side, side, 3),
    }
    for name, shape in shapes.items():
        array = arrays[name]
        if n < 1 or array.shape != shape or not np.isfinite(array).all():
            raise BundleError(
                f"{path}: {name} is {list(array.shape)}, or not finite; must be {list(shape)} "
                "with at least one picture: fetch it again"
            )
    floats = {name: arrays[name] for name in names}
    seed = int(arrays["picture_seed"])
    return GeneratorGolden(**floats, picture_seed=seed, picture=arrays["picture"])


def save_generator_golden(folder: Path, golden: GeneratorGolden) -> None:
    """Write generator_golden.npz into a bundle's folder."""
    np.savez_compressed(
        folder / GENERATOR_GOLDEN,
        x=np.asarray(golden.x, np.float32),
        sigma=np.asarray(golden.sigma, np.float32),
        condition=np.asarray(golden.condition, np.float32),
        denoised=np.asarray(golden.denoised, np.float32),
        picture_condition=np.asarray(golden.picture_condition, np.float32),
        picture_seed=np.int64(golden.picture_seed),
        picture=np.asarray(golden.picture, np.uint8),
    )
