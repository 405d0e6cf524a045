"""Calls that nobody trained on, and what a bundle paints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fieldstation.analysis.classifier import Classifier, activate
from fieldstation.bundle import Bundle
from fieldstation.generation.painter import Painter
from fieldstation.records import LabelKind
from trainer.data.recordings import DataError, Recording
from trainer.data.windows import WindowGrid
from trainer.evaluation.hearing import batches_of, decoded

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

PAINTED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """The loudest evidence of each recording: what a station would paint of it."""

    species: Ints
    """Of each recording, as its folder says; index into the painted species"""
    embedding: Floats
    """Of the window in which the encoder was surest of any species, [recordings, 512]"""
    is_right: NDArray[np.bool_]
    """Whether that species is the recording's"""
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason) of those that could not be heard"""

    @property
    def encoder_accuracy(self) -> float:
        """Return the share of calls that the encoder names rightly."""
        return float(self.is_right.mean())


def hear_calls(bundle: Bundle, recordings: Sequence[Recording], painted: Sequence[str]) -> Calls:
    """Return the calls of recordings of painted species.

    Raises:
        DataError: there is none.
    """
    classifier = Classifier(bundle, "cpu")
    place = {name: i for i, name in enumerate(painted)}
    ours = [r for r in recordings if r.scientific_name in place]
    heard, skipped = [], []
    for recording in tqdm(ours, desc="listening", unit="file", disable=None):
        try:
            surest = _surest(classifier, bundle, recording)
        except DataError as error:
            skipped.append((recording.file, str(error)))
        else:
            heard.append((place[recording.scientific_name], *surest))
    if not heard:
        raise DataError(
            f"--data holds no recording of a species that the bundle paints ({', '.join(painted)})"
        )
    species, embeddings, said = zip(*heard, strict=True)
    names = [painted[i] for i in species]
    right = [bundle.labels[i].scientific_name == name for i, name in zip(said, names, strict=True)]
    return Calls(np.array(species), np.stack(embeddings), np.array(right), tuple(skipped))


def draw_calls(calls: Calls, species: Ints, chance: np.random.Generator) -> Ints:
    """Return a random call of each wanted species, or -1 where it has none."""
    of = {int(s): np.flatnonzero(calls.species == s) for s in np.unique(species)}
    return np.array([chance.choice(of[int(s)]) if len(of[int(s)]) else -1 for s in species])


def paint_calls(
    painter: Painter, calls: Calls, drawn: Ints, species: Ints, seeds: Sequence[int]
) -> Pixels:
    """Return a picture of each drawn call; of the species' own vector where there is none."""
    return paint(painter, conditions_of(painter, calls, drawn, species), seeds)


def conditions_of(painter: Painter, calls: Calls, drawn: Ints, species: Ints) -> Floats:
    """Return the conditions of drawn calls, [n, 512]."""
    conditions = painter.conditions
    names = [painter.card.paints[i] for i in species]
    heard = conditions.of_embeddings(calls.embedding[np.maximum(drawn, 0)])
    return np.where((drawn >= 0)[:, None], heard, conditions.of_species(names)).astype(np.float32)


def paint(painter: Painter, conditions: Floats, seeds: Sequence[int]) -> Pixels:
    """Return pictures uint8 [n, side, side, 3], with a progress bar."""
    firsts = tqdm(range(0, len(seeds), PAINTED_AT_ONCE), desc="painting", disable=None)
    parts = [slice(i, i + PAINTED_AT_ONCE) for i in firsts]
    return np.concatenate([painter.paint(conditions[p], seeds[p]) for p in parts])


def _surest(classifier: Classifier, bundle: Bundle, recording: Recording) -> tuple[Floats, int]:
    """Return the embedding of the window that says most, and the label it says."""
    samples = decoded(recording, bundle.sample_rate)
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window // 2)
    answers = [classifier.run(batch) for batch in batches_of(samples, grid)]
    probabilities = activate(np.concatenate([logits for logits, _ in answers]), bundle)
    kinds = np.array([label.kind is LabelKind.SPECIES for label in bundle.labels])
    probabilities = np.where(kinds, probabilities, -1.0)
    window, label = np.unravel_index(int(probabilities.argmax()), probabilities.shape)
    embeddings = [embedding for _, embedding in answers if embedding is not None]
    if not embeddings:
        raise DataError("the encoder gives no embedding")
    return np.concatenate(embeddings)[window], int(label)
