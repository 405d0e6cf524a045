"""Batches drawn by a GPU itself: photographs, conditions and chance all lie there.

The same lessons as `course.draw` gives, in other random numbers: copying one number to a GPU, or
asking it for one, would wait for all that it has yet to do. As there, a batch is a function of
seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.generator.augmentation import Augmentation, moved
from trainer.generator.course import NULL, Lessons, call_weights
from trainer.generator.networks import N_AUGMENT
from trainer.generator.profiles import Profile

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Wheel:
    """Weighted lots, one wheel for each key: drawn for many keys at once."""

    ends: Tensor
    """float64 [lots], rising: a lot of key k ends between k and k + 1"""
    lots: Tensor
    """int64 [lots]: what is drawn"""
    first: Tensor
    """int64 [keys]: place of each key's first lot"""
    count: Tensor
    """int64 [keys]: how many lots it has; 0: nothing can be drawn"""

    def draw(self, key: Tensor) -> Tensor:
        """Return a lot for each key; any lot where the key has none."""
        at = torch.rand(len(key), dtype=torch.float64, device=key.device) + key
        place = torch.searchsorted(self.ends, at, right=True)
        first = self.first[key]
        # A wheel's last end is 1 but for rounding.
        place = place.clamp(min=first, max=first + self.count[key] - 1)
        return self.lots[place.clamp(0, len(self.lots) - 1)]


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """Lessons on a GPU."""

    pixels: Tensor
    """uint8 [photographs, 3, side, side]"""
    conditions: Tensor
    """float32 [rows, 512]"""
    species: Tensor
    """int64 [photographs]"""
    images: Mapping[str, Wheel]
    """Photographs of each set; the only key is 0"""
    calls: Wheel
    """Rows of conditions, by `call_key`"""
    call_key: Tensor
    """int64 [photographs]: whose calls a photograph is paired with"""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a step learns from."""

    images: Tensor
    """float32 [n, 3, side, side] in -1..1"""
    species: Tensor
    """Whose label vector stands for the call, or NULL"""
    is_row: Tensor
    """Whether a call's row stands there, [n, 1]"""
    rows: Tensor
    """float32 [n, 512]"""
    augment: Tensor | None


def shelf_on(device: torch.device, lessons: Lessons, profile: Profile) -> Shelf:
    """Return lessons as a device draws from them."""
    key, weights = call_weights(lessons, profile)
    pixels = np.ascontiguousarray(np.asarray(lessons.images.pixels).transpose(0, 3, 1, 2))
    return Shelf(
        pixels=torch.from_numpy(pixels).to(device),
        conditions=torch.from_numpy(lessons.conditions).to(device),
        species=torch.from_numpy(lessons.species_of_image).to(device),
        images={
            group: wheel_of({0: (found, lessons.image_weight[group])}, 1, device)
            for group, found in lessons.groups.items()
        },
        calls=wheel_of(weights, int(key.max()) + 1, device),
        call_key=torch.from_numpy(key).to(device),
    )


def wheel_of(
    weights: Mapping[int, tuple[NDArray[np.int64], Floats]], n_keys: int, device: torch.device
) -> Wheel:
    """Return a wheel of each key's lots and weights."""
    ends, lots, count = [np.zeros(0)], [np.zeros(0, np.int64)], np.zeros(n_keys, np.int64)
    for key in sorted(weights):
        mine, weight = weights[key]
        ends.append(key + np.cumsum(weight) / weight.sum())
        lots.append(mine)
        count[key] = len(mine)
    if not count.any():
        ends, lots = [np.ones(1)], [np.zeros(1, np.int64)]
    arrays = np.concatenate(ends), np.concatenate(lots), np.cumsum(count) - count, count
    return Wheel(*(torch.from_numpy(array).to(device) for array in arrays))


def drawn_on(shelf: Shelf, profile: Profile, group: str, n: int) -> Batch:
    """Return a batch, mirrored and augmented, of torch's own random numbers of the device."""
    device = shelf.pixels.device
    image = shelf.images[group].draw(torch.zeros(n, dtype=torch.int64, device=device))
    species, key = shelf.species[image], shelf.call_key[image]
    row = shelf.calls.draw(key)
    kind = torch.rand(n, device=device)
    is_null = kind > 1 - profile.null_share
    is_label = (shelf.calls.count[key] == 0) | (kind < profile.label_share)
    images = shelf.pixels[image].float() / 127.5 - 1
    flip = torch.rand(n, 1, 1, 1, device=device) < 0.5
    images, augment = torch.where(flip, images.flip(3), images), None
    if profile.augmentation is not None:
        images, augment = augmented_on(images, profile.augmentation)
    return Batch(
        images,
        species=torch.where(is_null, NULL, species),
        is_row=~(is_label | is_null)[:, None],
        rows=shelf.conditions[row],
        augment=augment,
    )


def augmented_on(images: Tensor, how: Augmentation) -> tuple[Tensor, Tensor]:
    """Return changed images and by how much, as `augmentation.augmented` does."""
    n, device = len(images), images.device
    amounts = torch.randn(n, N_AUGMENT, device=device).clamp(-2, 2)
    amounts = amounts * (torch.rand(n, N_AUGMENT, device=device) < how.share)
    is_changed = (amounts != 0).any(dim=1)[:, None, None, None]
    return torch.where(is_changed, moved(images, amounts, how), images), amounts
