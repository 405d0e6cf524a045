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
    drawn = chance.standard_normal((len(images), N_AUGMENT)).clip(-2, 2)
    drawn *= chance.random(drawn.shape) < how.share
    amounts = torch.from_numpy(drawn).to(images)
    changed = np.flatnonzero(drawn.any(axis=1))
    out = images.clone()
    if len(changed):
        out[changed] = moved(images[changed], amounts[changed], how)
    return out, amounts


def moved(images: Tensor, amounts: Tensor, how: Augmentation) -> Tensor:
    """Return images shifted, zoomed and turned by amounts [n, 4], their borders reflected."""
    grid = F.affine_grid(maps(amounts, how), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", padding_mode="reflection", align_corners=False)


def maps(amounts: Tensor, how: Augmentation) -> Tensor:
    """Return the affine maps from places of the new image to places of the old, [n, 2, 3]."""
    scale = torch.exp2(-amounts[:, 0] * how.log2_zoom)
    angle = amounts[:, 3] * how.turn
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = amounts[:, 1:3] * (how.shift * 2)
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    return torch.stack(rows, dim=1)
