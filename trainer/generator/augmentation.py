"""Changes of an image of which the network is told, so that none leaks into what it paints.

Mirror images are as good as photographs and are drawn without a word. Shifts, zooms and small
turns fill borders with reflections: their amounts go to the network, which paints with none
(Karras et al. 2020, 2022). No change of colour: colour is the species.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.generator.networks import N_AUGMENT


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much of what."""

    share: float = 0.25
    """Probability of each change"""
    log2_zoom: float = 0.2
    """Standard deviation"""
    shift: float = 0.08
    """Standard deviation, as a share of the side"""
    turn: float = 0.12
    """Standard deviation, radians"""


def mirrored(images: Tensor, chance: np.random.Generator) -> Tensor:
    """Return images [n, 3, side, side] of which half are mirrored."""
    flip = torch.from_numpy(chance.random(len(images)) < 0.5).to(images.device)
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def augmented(
    images: Tensor, how: Augmentation, chance: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return changed images and by how much each was changed, [n, 4] in standard deviations."""
    amounts = chance.standard_normal((len(images), N_AUGMENT)).clip(-2, 2)
    amounts *= chance.random(amounts.shape) < how.share
    changed = np.flatnonzero(amounts.any(axis=1))
    out = images.clone()
    if len(changed):
        grid = torch.from_numpy(_maps(amounts[changed], how)).to(images)
        grid = F.affine_grid(grid, list(images[changed].shape), align_corners=False)
        moved = F.grid_sample(
            images[changed], grid, "bilinear", padding_mode="reflection", align_corners=False
        )
        out[changed] = moved
    return out, torch.from_numpy(amounts).to(images)


def _maps(amounts: NDArray[np.float64], how: Augmentation) -> NDArray[np.float64]:
    """Return the affine maps from places of the new image to places of the old, [n, 2, 3]."""
    zoom = 2.0 ** (amounts[:, 0] * how.log2_zoom)
    angle = amounts[:, 3] * how.turn
    rows = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    maps = np.zeros((len(amounts), 2, 3))
    maps[:, :, :2] = rows.reshape(-1, 2, 2) / zoom[:, None, None]
    maps[:, :, 2] = amounts[:, 1:3] * how.shift * 2
    return maps
