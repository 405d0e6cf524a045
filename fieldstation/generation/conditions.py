"""What a picture is painted from: a call's embedding, or the species' own learnt vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldstation.bundle import CONDITIONS, Bundle, BundleError, read_arrays
from fieldstation.errors import MendableError
from fieldstation.generator_card import GeneratorCard

CONDITION = 512
"""Values of a condition: as many as an embedding has"""
MAPPING = "mapping"
LIMIT = 5.0
"""Conditions are clipped there, in standard deviations of the training's embeddings"""

Floats = NDArray[np.float32]


class Unpaintable(MendableError):
    """This call cannot be painted by this bundle; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """The arrays of conditions.npz."""

    mean: Floats
    """float32 [512], of the training's embeddings"""
    scale: Floats
    """float32 [512], their standard deviation, above 0"""
    labels: Floats
    """float32 [species, 512], learnt vectors that stand in for an embedding"""
    label_names: tuple[str, ...]
    """Scientific names, in the order of `labels`"""
    null: Floats
    """float32 [512], the learnt absence of a condition"""
    mapping: Floats | None = None
    """float32 [512, 512], from another encoder's standardised embeddings to those of the training;
    None: it was trained with this encoder's"""

    def of_embeddings(self, embeddings: ArrayLike) -> Floats:
        """Return standardised embeddings, mapped if need be, float32 [n, 512], clipped to ±5."""
        raw = np.asarray(embeddings, np.float32).reshape(-1, CONDITION)
        told = (raw - self.mean) / self.scale
        if self.mapping is not None:
            told = told @ self.mapping
        return np.asarray(np.clip(told, -LIMIT, LIMIT), np.float32)

    def of_species(self, scientific_names: Sequence[str]) -> Floats:
        """Return the learnt vectors of species, float32 [n, 512].

        Raises:
            ValueError: one has none.
        """
        return self.labels[[self.label_names.index(name) for name in scientific_names]]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Who was heard, and the encoder's description of how, where there is one."""

    scientific_name: str
    embedding: Floats | None = None
    """[512], or None: then the species alone is painted"""
    encoder_id: str = ""
    """Whose embedding it is"""


def condition_of(call: Call, conditions: Conditions, card: GeneratorCard) -> Floats:
    """Return a call's condition, float32 [512].

    Raises:
        Unpaintable: the species is not painted, or the embedding is another encoder's or broken.
    """
    if call.scientific_name not in card.paints:
        raise Unpaintable(
            f"{call.scientific_name} is not painted by this bundle: it paints "
            f"{', '.join(sorted(card.paints))}"
        )
    if call.embedding is None:
        return np.asarray(conditions.of_species([call.scientific_name])[0])
    if call.encoder_id != card.encoder_id:
        raise Unpaintable(
            f"the embedding is of encoder {call.encoder_id or '(not said)'}; the generator "
            f"{card.generator_id} knows those of {card.encoder_id}: hear the recording again "
            "with this bundle"
        )
    embedding = np.asarray(call.embedding, np.float32)
    if embedding.shape != (CONDITION,) or not np.isfinite(embedding).all():
        raise Unpaintable(
            f"the embedding is {list(embedding.shape)}, or not finite; must be {CONDITION} numbers"
        )
    return np.asarray(conditions.of_embeddings(embedding)[0])


def load_conditions(bundle: Bundle) -> Conditions:
    """Read conditions.npz.

    Raises:
        BundleError: the bundle does not paint, or the file is missing, damaged or not what the
            card says.
    """
    card = card_of(bundle)
    path = bundle.path / CONDITIONS
    floats = dict.fromkeys(("mean", "scale", "labels", "null", MAPPING), np.float32)
    arrays = read_arrays(path, {**floats, "label_names": np.str_}, may_lack=[MAPPING])
    conditions = Conditions(
        mean=arrays["mean"],
        scale=arrays["scale"],
        labels=arrays["labels"],
        label_names=tuple(map(str, np.atleast_1d(arrays["label_names"]))),
        null=arrays["null"],
        mapping=arrays.get(MAPPING),
    )
    _check(path, conditions, card)
    return conditions


def save_conditions(folder: Path, conditions: Conditions) -> None:
    """Write conditions.npz into a bundle's folder; the same arrays are the same bytes."""
    arrays: dict[str, Any] = {
        "mean": np.asarray(conditions.mean, np.float32),
        "scale": np.asarray(conditions.scale, np.float32),
        "labels": np.asarray(conditions.labels, np.float32),
        "label_names": np.array(conditions.label_names, np.str_),
        "null": np.asarray(conditions.null, np.float32),
    }
    if conditions.mapping is not None:
        arrays[MAPPING] = np.asarray(conditions.mapping, np.float16)
    np.savez(folder / CONDITIONS, **arrays)


def card_of(bundle: Bundle) -> GeneratorCard:
    """Return the card of the bundle's generator.

    Raises:
        BundleError: it has none.
    """
    if bundle.generator is None:
        raise BundleError(
            f"bundle {bundle.name} does not paint: it has no generator; choose one that has "
            "(`fieldstation bundle list`)"
        )
    return bundle.generator


def _check(path: Path, conditions: Conditions, card: GeneratorCard) -> None:
    n = len(conditions.label_names)
    shapes = {
        "mean": (conditions.mean, (CONDITION,)),
        "scale": (conditions.scale, (CONDITION,)),
        "labels": (conditions.labels, (n, CONDITION)),
        "null": (conditions.null, (CONDITION,)),
    }
    if conditions.mapping is not None:
        shapes[MAPPING] = (conditions.mapping, (CONDITION, CONDITION))
    for name, (array, shape) in shapes.items():
        if array.shape != shape or not np.isfinite(array).all():
            raise BundleError(
                f"{path}: {name} is {list(array.shape)}, or not finite; must be {list(shape)}: "
                "fetch it again"
            )
    if not (conditions.scale > 0).all():
        raise BundleError(f"{path}: scale must be above 0: fetch it again")
    if nameless := sorted(set(card.paints) - set(conditions.label_names)):
        raise BundleError(f"{path} has no vector for {', '.join(nameless)}: fetch it again")
