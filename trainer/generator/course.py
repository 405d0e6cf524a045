"""What a generator learns from: photographs, and for each a condition to paint it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fieldstation.generation.conditions import LIMIT
from trainer.data.images import GARDEN, PRETRAIN, TRAIN, VAL, ImageSet
from trainer.data.recordings import DataError
from trainer.generator.embeddings import Calls
from trainer.generator.profiles import Profile

LEAST_PROBABILITY = 0.02
"""A window in which the encoder hears nothing of its species is drawn this rarely, not never"""
NULL = -1
"""Instead of a species: nothing is said of whose call it is"""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Photographs and conditions of the same species, and how they are drawn."""

    images: ImageSet
    species: tuple[str, ...]
    """Scientific names in the order of the label vectors; those with calls and without"""
    species_of_image: NDArray[np.int64]
    mean: Floats
    scale: Floats
    """Of the conditions as they come, [512]"""
    conditions: Floats
    """Standardised, [rows, 512]"""
    rows_of: Mapping[int, NDArray[np.int64]]
    """Of a species with calls: its rows in `conditions`"""
    weight_of: Mapping[int, NDArray[np.float64]]
    """And how likely each is drawn"""
    groups: Mapping[str, NDArray[np.int64]]
    """Photographs to train on, of each set"""
    image_weight: Mapping[str, NDArray[np.float64]]
    rank: NDArray[np.int64]
    """Place of each photograph among those of its species that are trained on"""

    @property
    def validation(self) -> NDArray[np.int64]:
        """Return the photographs that are never trained on."""
        return self.images.where(GARDEN, VAL)

    def heard(self, species: int) -> bool:
        """Return whether a species has calls."""
        return species in self.rows_of


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One batch, as indices: everything random about it but the noise."""

    image: NDArray[np.int64]
    species: NDArray[np.int64]
    """Whose label vector stands for the call, or NULL where a row or nothing does"""
    row: NDArray[np.int64]
    """Row of `conditions`, or -1 where a vector stands for it"""


def lessons_for(images: ImageSet, calls: Calls, profile: Profile, condition: str) -> Lessons:
    """Return what to learn.

    Args:
        calls: those that may be trained on.
        condition: `embedding`, `mel`, or `label`, which leaves the calls out.

    Raises:
        DataError: no photograph to train on, or no species with both calls and photographs.
    """
    species = tuple(sorted(_species_to_learn(images)))
    index = {name: i for i, name in enumerate(species)}
    at = np.array([index.get(p.scientific_name, NULL) for p in images.photographs], np.int64)
    raw = calls.mel if condition == "mel" else calls.embedding
    owners = np.array([index.get(name, NULL) for name in calls.species], np.int64)
    rows_of = {} if condition == "label" else _rows_of(owners, calls, profile)
    if condition != "label" and not rows_of:
        raise DataError(
            "no species has both recordings and photographs: scientific_name must be the same in "
            "recordings.csv and images.csv"
        )
    heard = raw[np.concatenate(list(rows_of.values()))] if rows_of else raw
    mean, scale = heard.mean(axis=0), np.maximum(heard.std(axis=0), 1e-3)
    groups = {name: images.where(name, TRAIN) for name in (GARDEN, PRETRAIN)}
    return Lessons(
        images=images,
        species=species,
        species_of_image=at,
        mean=mean,
        scale=scale,
        conditions=np.clip((raw - mean) / scale, -LIMIT, LIMIT).astype(np.float32),
        rows_of=rows_of,
        weight_of={s: _row_weight(calls, rows) for s, rows in rows_of.items()},
        groups={name: found for name, found in groups.items() if len(found)},
        image_weight={
            name: _image_weight(at[found], profile.class_power)
            for name, found in groups.items()
            if len(found)
        },
        rank=_ranks(images, at),
    )


def shuffled(lessons: Lessons) -> Lessons:
    """Return the twin that can learn nothing of calls: every species is paired with any call."""
    rows = np.concatenate(list(lessons.rows_of.values()))
    weight = np.concatenate(list(lessons.weight_of.values()))
    return replace(
        lessons,
        rows_of=dict.fromkeys(lessons.rows_of, rows),
        weight_of=dict.fromkeys(lessons.rows_of, weight / weight.sum()),
    )


def draw(
    lessons: Lessons, profile: Profile, group: str, n: int, chance: np.random.Generator
) -> Draw:
    """Return a batch: photographs of a group by class balance, and a condition for each."""
    image = chance.choice(lessons.groups[group], n, p=lessons.image_weight[group])
    species = lessons.species_of_image[image]
    row = np.array([_row(lessons, profile, i, s, chance) for i, s in _pairs(image, species)])
    kind = chance.random(n)
    is_label = (row < 0) | (kind < profile.label_share)
    is_null = kind > 1 - profile.null_share
    return Draw(
        image,
        species=np.where(is_label & ~is_null, species, NULL),
        row=np.where(is_label | is_null, -1, row),
    )


def representative_rows(lessons: Lessons, species: int, n: int) -> NDArray[np.int64]:
    """Return the n calls of a species that are drawn most often."""
    order = np.argsort(-lessons.weight_of[species], kind="stable")
    return np.resize(lessons.rows_of[species][order], n)


def circular(lessons: Lessons, image: int, species: int) -> NDArray[np.int64]:
    """Return the calls of a photograph where both lists go round till the longer one ends."""
    rows, rank = lessons.rows_of[species], int(lessons.rank[image])
    n_photographs = int((lessons.species_of_image[lessons.groups[GARDEN]] == species).sum())
    return rows[rank::n_photographs] if rank < len(rows) else rows[[rank % len(rows)]]


def call_weights(
    lessons: Lessons, profile: Profile
) -> tuple[NDArray[np.int64], dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]]:
    """Return for each photograph a key, and for each key its calls and how likely each is.

    A key without calls is not among them. It is the species, or under circular pairing the
    photograph itself.
    """
    if profile.pairing != "circular":
        return lessons.species_of_image.clip(0), {
            species: (rows, lessons.weight_of[species]) for species, rows in lessons.rows_of.items()
        }
    weights = {}
    for image in np.concatenate(list(lessons.groups.values())).tolist():
        species = int(lessons.species_of_image[image])
        if lessons.heard(species):
            rows = circular(lessons, image, species)
            weights[image] = (rows, np.ones(len(rows)))
    return np.arange(len(lessons.species_of_image)), weights


def pixels_of(lessons: Lessons, image: NDArray[np.int64]) -> Floats:
    """Return photographs float32 [n, 3, side, side] in -1..1."""
    pixels = lessons.images.pixels[image].astype(np.float32) / np.float32(127.5) - 1
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _pairs(image: NDArray[np.int64], species: NDArray[np.int64]) -> Sequence[tuple[int, int]]:
    return list(zip(image.tolist(), species.tolist(), strict=True))


def _row(
    lessons: Lessons, profile: Profile, image: int, species: int, chance: np.random.Generator
) -> int:
    """Return a call for a photograph; -1 where its species has none."""
    if not lessons.heard(species):
        return -1
    if profile.pairing == "circular":
        return int(chance.choice(circular(lessons, image, species)))
    return int(chance.choice(lessons.rows_of[species], p=lessons.weight_of[species]))


def _species_to_learn(images: ImageSet) -> set[str]:
    found = {p.scientific_name for p in images.photographs if p.split == TRAIN}
    if not len(images.where(GARDEN, TRAIN)):
        raise DataError("no photograph of set 'garden' and split 'train': nothing to paint")
    return found


def _rows_of(
    owners: NDArray[np.int64], calls: Calls, profile: Profile
) -> dict[int, NDArray[np.int64]]:
    """Return each species' rows; the paper hears every window as it is, once."""
    usable = owners != NULL
    if profile.pairing == "circular":
        usable &= calls.variant == 0
    return {int(s): np.flatnonzero(usable & (owners == s)) for s in np.unique(owners[usable])}


def _row_weight(calls: Calls, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how likely each row is drawn: recordings alike, their windows by probability."""
    weight = np.maximum(calls.probability[rows].astype(np.float64), LEAST_PROBABILITY)
    totals = np.bincount(calls.recording[rows], weights=weight)
    # The square root lies between recordings alike (one bad recording counts as a good one) and
    # windows alike (one long recording is all that is heard).
    weight /= np.sqrt(totals[calls.recording[rows]])
    share: NDArray[np.float64] = weight / weight.sum()
    return share


def _image_weight(species: NDArray[np.int64], power: float) -> NDArray[np.float64]:
    counts = np.bincount(species)[species].astype(np.float64)
    weight = counts ** (power - 1)
    share: NDArray[np.float64] = weight / weight.sum()
    return share


def _ranks(images: ImageSet, species: NDArray[np.int64]) -> NDArray[np.int64]:
    rank = np.zeros(len(species), np.int64)
    is_trained = np.array([p.split == TRAIN for p in images.photographs])
    for one in np.unique(species[is_trained]):
        mine = np.flatnonzero(is_trained & (species == one))
        rank[mine] = np.arange(len(mine))
    return rank
