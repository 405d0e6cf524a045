"""Calls that nobody trained on, and what a bundle paints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fieldstation.analysis.classifier import Classifier, activate
from fieldstation.bundle import Bundle
from fieldstation.generation.conditions import Conditions
from fieldstation.generation.sampling import Sampling
from fieldstation.generator_card import GeneratorCard
from fieldstation.records import LabelKind
from trainer.data.recordings import DataError, Recording
from trainer.data.windows import WindowGrid
from trainer.encoder.running import cpu_session
from trainer.evaluation.hearing import batches_of, decoded
from trainer.generator.embeddings import N_VALUES, mel_grid

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

PAINTED_AT_ONCE = 8


class Paints(Protocol):
    """A generator at work: a bundle's `Painter`, or a training's."""

    card: GeneratorCard
    sampling: Sampling
    conditions: Conditions

    @property
    def n_network_calls(self) -> int:
        """Return how many calls there were so far."""

    def paint(self, conditions: Floats, seeds: Sequence[int]) -> Pixels:
        """Return a picture uint8 [side, side, 3] for each condition and seed."""


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """The loudest evidence of each recording: what a station would paint of it."""

    species: Ints
    """Of each recording, as its folder says; index into the painted species"""
    embedding: Floats
    """Of the window in which the encoder was surest of any species, [recordings, 512]"""
    is_right: NDArray[np.bool_]
    """Whether that species is the recording's"""
    recording: Ints
    """Index into the recordings that were given"""
    mel: Floats
    """The same window's log-mel as a grid, [recordings, 512]; zeros where the encoder gives none"""
    by_label: bool = False
    """Whether the painter is told the calls' species instead of the calls"""
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
    ours = [i for i, r in enumerate(recordings) if r.scientific_name in place]
    heard, skipped = [], []
    for at in tqdm(ours, desc="listening", unit="file", disable=None):
        recording = recordings[at]
        try:
            surest = _surest(classifier, bundle, recording)
        except DataError as error:
            skipped.append((recording.file, str(error)))
        else:
            heard.append((at, place[recording.scientific_name], *surest))
    if not heard:
        why = f"; {len(skipped)} were skipped, the first: {skipped[0][1]}" if skipped else ""
        raise DataError(
            "--data holds no recording that can be heard of a species that the bundle paints "
            f"({', '.join(painted)}){why}"
        )
    at_recording, species, embeddings, said, windows = zip(*heard, strict=True)
    names = [painted[i] for i in species]
    right = [bundle.labels[i].scientific_name == name for i, name in zip(said, names, strict=True)]
    return Calls(
        np.array(species),
        np.stack(embeddings),
        np.array(right),
        np.array(at_recording),
        mel_grids(bundle, np.stack(windows)),
        skipped=tuple(skipped),
    )


def mel_grids(bundle: Bundle, windows: Floats) -> Floats:
    """Return windows' log-mels as grids, [n, 512]; zeros where the encoder gives no log-mel."""
    if bundle.outputs.mel is None:
        return np.zeros((len(windows), N_VALUES), np.float32)
    session = cpu_session(bundle.encoder_path, n_threads=1)
    mels = [session.run([bundle.outputs.mel], {bundle.input: w[None]})[0] for w in windows]
    return mel_grid(np.concatenate(mels))


def draw_calls(calls: Calls, species: Ints, chance: np.random.Generator) -> Ints:
    """Return a random call of each wanted species, or -1 where it has none."""
    of = {int(s): np.flatnonzero(calls.species == s) for s in np.unique(species)}
    return np.array([chance.choice(of[int(s)]) if len(of[int(s)]) else -1 for s in species])


def paint_calls(
    painter: Paints, calls: Calls, drawn: Ints, species: Ints, seeds: Sequence[int]
) -> Pixels:
    """Return a picture of each drawn call; of the species' own vector where there is none."""
    return paint(painter, conditions_of(painter, calls, drawn, species), seeds)


def conditions_of(painter: Paints, calls: Calls, drawn: Ints, species: Ints) -> Floats:
    """Return the conditions of drawn calls, [n, 512]."""
    conditions = painter.conditions
    if calls.by_label:
        species, drawn = (
            np.where(drawn >= 0, calls.species[drawn], species),
            np.full_like(drawn, -1),
        )
    names = [painter.card.paints[i] for i in species]
    heard = conditions.of_embeddings(calls.embedding[np.maximum(drawn, 0)])
    return np.where((drawn >= 0)[:, None], heard, conditions.of_species(names)).astype(np.float32)


def paint(painter: Paints, conditions: Floats, seeds: Sequence[int]) -> Pixels:
    """Return pictures uint8 [n, side, side, 3], with a progress bar."""
    at_once = getattr(painter, "at_once", PAINTED_AT_ONCE)
    firsts = tqdm(range(0, len(seeds), at_once), desc="painting", disable=None)
    parts = [slice(i, i + at_once) for i in firsts]
    return np.concatenate([painter.paint(conditions[p], seeds[p]) for p in parts])


def _surest(
    classifier: Classifier, bundle: Bundle, recording: Recording
) -> tuple[Floats, int, Floats]:
    """Return the embedding of the window that says most, the label it says, and its samples."""
    samples = decoded(recording, bundle.sample_rate)
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window // 2)
    batches = list(batches_of(samples, grid))
    answers = [classifier.run(batch) for batch in batches]
    probabilities = activate(np.concatenate([logits for logits, _ in answers]), bundle)
    kinds = np.array([label.kind is LabelKind.SPECIES for label in bundle.labels])
    probabilities = np.where(kinds, probabilities, -1.0)
    window, label = np.unravel_index(int(probabilities.argmax()), probabilities.shape)
    embeddings = [embedding for _, embedding in answers if embedding is not None]
    if not embeddings:
        raise DataError("the encoder gives no embedding")
    return np.concatenate(embeddings)[window], int(label), np.concatenate(batches)[window]
