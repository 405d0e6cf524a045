"""A bundle on recordings: probabilities of every window that a station would hear."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fieldstation.analysis.classifier import Classifier, activate
from fieldstation.bundle import Bundle
from fieldstation.records import LabelKind
from trainer.data.audio import Samples, decode
from trainer.data.recordings import DataError, Recording
from trainer.data.windows import WindowGrid, window_starts
from trainer.evaluation.truth import BACKGROUND, UNKNOWN, Skipped, targets_of

BATCH_SIZE = 16

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a model makes of every window of some recordings."""

    probabilities: Probabilities
    """[windows, labels]"""
    owner: Ints
    """Recording of each window: 0, 1, …, in order, every one"""
    start_s: Floats
    """Of each window in its recording"""
    target: Ints
    """Label of each recording, `UNKNOWN` or `BACKGROUND`"""
    species: Ints
    """Labels that are species"""
    unknown: Ints
    """Labels that mean another bird"""

    @property
    def window_target(self) -> Ints:
        """Return each window's label: its recording's."""
        return self.target[self.owner]

    @property
    def n_windows(self) -> Ints:
        """Return how many windows each recording has."""
        return np.bincount(self.owner)

    def means(self) -> Floats:
        """Return each label's mean over a recording's windows, [recordings, labels]."""
        sums = np.add.reduceat(self.probabilities, self._first(), axis=0, dtype=np.float64)
        means: Floats = sums / self.n_windows[:, None]
        return means

    def peaks(self) -> Floats:
        """Return each label's highest probability in a recording, [recordings, labels]."""
        peaks = np.maximum.reduceat(self.probabilities, self._first(), axis=0)
        return peaks.astype(np.float64)

    def _first(self) -> Ints:
        return np.flatnonzero(np.diff(self.owner, prepend=-1))


def hear(
    bundle: Bundle, recordings: Sequence[Recording]
) -> tuple[Heard, tuple[Recording, ...], tuple[Skipped, ...]]:
    """Run a bundle over every window of some recordings.

    A recording is decoded, heard and forgotten: a folder may be larger than memory and disk.

    Returns:
        what was heard, the recordings that could be, and those that could not with the reason.

    Raises:
        DataError: there are some, and not one could.
    """
    classifier = Classifier(bundle, "cpu", n_threads=os.cpu_count() or 1)
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window // 2)
    kept, skipped, probabilities, starts = [], [], [], []
    for recording in tqdm(recordings, desc="listening", unit="file", disable=None):
        try:
            samples = decoded(recording, bundle.sample_rate)
            probabilities.append(probabilities_of(classifier, bundle, samples, grid))
        except DataError as error:
            skipped.append((recording.file, str(error)))
            continue
        starts.append(window_starts(len(samples), grid) / bundle.sample_rate)
        kept.append(recording)
    if recordings and not kept:
        file, reason = skipped[0]
        raise DataError(f"none of {len(recordings)} recordings could be heard: {file}: {reason}")
    return as_heard(bundle, kept, probabilities, starts), tuple(kept), tuple(skipped)


def as_heard(
    bundle: Bundle,
    recordings: Sequence[Recording],
    probabilities: Sequence[Probabilities],
    starts: Sequence[Floats],
) -> Heard:
    """Return what was heard in each recording as one."""
    kinds = [label.kind for label in bundle.labels]
    return Heard(
        probabilities=np.concatenate([np.empty((0, len(kinds)), np.float32), *probabilities]),
        owner=np.repeat(np.arange(len(starts)), np.array([len(s) for s in starts], np.int64)),
        start_s=np.concatenate([np.empty(0), *starts]),
        target=species_targets(bundle, recordings),
        species=np.flatnonzero([kind is LabelKind.SPECIES for kind in kinds]),
        unknown=np.flatnonzero([kind is LabelKind.UNKNOWN_BIRD for kind in kinds]),
    )


def species_targets(bundle: Bundle, recordings: Sequence[Recording]) -> Ints:
    """Return the label of each recording; a label that is no species says which kind it is."""
    meaning = {LabelKind.UNKNOWN_BIRD: UNKNOWN, LabelKind.NO_BIRD: BACKGROUND}
    targets = targets_of(recordings, [label.scientific_name for label in bundle.labels])
    return np.array(
        [t if t < 0 else meaning.get(bundle.labels[t].kind, t) for t in targets], np.int64
    )


def decoded(recording: Recording, sample_rate: int) -> Samples:
    """Return a recording's samples.

    Raises:
        DataError: it cannot be decoded, whatever the reason.
    """
    return decode(recording.path, sample_rate)


def probabilities_of(
    classifier: Classifier, bundle: Bundle, samples: Samples, grid: WindowGrid
) -> Probabilities:
    """Return the probabilities of each window, [windows, labels].

    Raises:
        DataError: the encoder's arithmetic overflows.
    """
    batches = [classifier.run(batch)[0] for batch in batches_of(samples, grid)]
    probabilities = activate(np.concatenate(batches), bundle)
    if not np.isfinite(probabilities).all():
        raise DataError(f"it overflows the encoder: its peak is {np.abs(samples).max():.3g}")
    return probabilities


def batches_of(samples: Samples, grid: WindowGrid) -> Iterator[Samples]:
    """Yield windows float32 [up to `BATCH_SIZE`, n]; beyond the end stand zeros."""
    starts = window_starts(len(samples), grid)
    if len(samples) < grid.n_samples:  # otherwise every window lies within
        samples = np.pad(samples, (0, grid.n_samples - len(samples)))
    for first in range(0, len(starts), BATCH_SIZE):
        chosen = starts[first : first + BATCH_SIZE]
        yield np.stack([samples[s : s + grid.n_samples] for s in chosen])
