"""What an encoder is taught and judged with: species, background, other birds, and their splits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.records import Label, LabelKind
from trainer.data.audio import AudioSet, load_audio
from trainer.data.recordings import (
    DataError,
    Recording,
    content_hash,
    held_out,
    read_recordings,
    refuse_empty_classes,
    species_of,
)
from trainer.data.windows import WindowGrid, WindowSet, active_windows

NO_BIRD = Label("no bird", "No bird", LabelKind.NO_BIRD)
UNKNOWN_BIRD = Label("unknown bird", "Unknown bird", LabelKind.UNKNOWN_BIRD)
NO_LABEL = -1
"""Target of a recording that is none of the labels"""
HELD_BACKGROUND = 0.7
"""Share of background/ that is never trained on: with the night clips, ten minutes to judge by"""
HELD_OTHER_BIRDS = 0.2
NIGHT_HOURS = (22, 4)
"""A field recording of these hours, by the local time in its name, counts as background"""


class Role(IntEnum):
    """What a recording is for."""

    SPECIES = 0
    BACKGROUND = 1
    OTHER_BIRD = 2
    UNLABELLED = 3
    """Only a teacher can say what is in it"""


@dataclass(frozen=True, slots=True)
class Sources:
    """Folders that make a corpus; None where one is left out."""

    species: Path
    background: Path | None = None
    other_birds: Path | None = None
    unlabelled: Path | None = None
    """Field recordings; those made at night are held-out background"""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Decoded recordings with their targets and splits; arrays are per recording."""

    audio: AudioSet
    labels: tuple[Label, ...]
    target: NDArray[np.int64]
    """Index into `labels`, or `NO_LABEL`"""
    role: NDArray[np.int64]
    held: NDArray[np.bool_]
    """Never trained on"""
    content_hash: str

    def held_of(self, role: Role) -> NDArray[np.int64]:
        """Return the held-out recordings of a role."""
        return np.flatnonzero(self.held & (self.role == role))


@dataclass(frozen=True, slots=True, eq=False)
class TrainingWindows:
    """Windows to train on, and how an epoch draws from them."""

    windows: WindowSet
    target: NDArray[np.int64]
    role: NDArray[np.int64]
    negative_share: float
    """Of an epoch's windows: half background, half other birds"""

    def epoch(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return an epoch's windows in random order: all of species, some of the negatives."""
        species = np.flatnonzero(self.role == Role.SPECIES)
        n_negatives = round(len(species) * self.negative_share / (1 - self.negative_share))
        drawn = [species]
        kinds = [np.flatnonzero(self.role == role) for role in (Role.BACKGROUND, Role.OTHER_BIRD)]
        kinds = [kind for kind in kinds if len(kind)]
        for kind in kinds:
            wanted = n_negatives // len(kinds)
            drawn.append(generator.choice(kind, wanted, replace=wanted > len(kind)))
        return generator.permutation(np.concatenate(drawn))


def gather(
    sources: Sources,
    sample_rate: int,
    cache: Path,
    fold: int | None,
    tiers: Collection[str] | None = None,
    labels: Sequence[str] | None = None,
    extra: Label = NO_BIRD,
) -> Corpus:
    """Read and decode a corpus and hold a fold of it out.

    Args:
        fold: held-out fold of the species' recordings; None trains on all of them.
        tiers: licence tiers to use; None uses all.
        labels: species in logit order; None takes those of the data, sorted.
        extra: `NO_BIRD`, which background and other birds are then taught as, or `UNKNOWN_BIRD`,
            which other birds are, and background is no label.

    Raises:
        DataError: see `read_recordings`; a class without recordings; a fold that does not exist.
    """
    species = read_recordings(sources.species, tiers, labels)
    _refuse_nothing_to_tell(species, sources.species, tiers)
    _refuse_missing_fold(species, fold)  # before all is decoded
    background = _optional(sources.background, tiers)
    unlabelled = _optional(sources.unlabelled, tiers)
    other = _without(_optional(sources.other_birds, tiers), {r.scientific_name for r in species})
    recordings = [*species, *background, *unlabelled, *other]
    audio = load_audio(recordings, sample_rate, cache)
    splits = _splits(species, background, unlabelled, other, fold)
    place = {r.path: (role, is_held) for r, role, is_held in splits}
    role = np.array([place[r.path][0] for r in audio.recordings], np.int64)
    held = np.array([place[r.path][1] for r in audio.recordings], np.bool_)
    chosen = _labels(species, labels, extra if background or other else None)
    decoded = set(audio.recordings)
    _refuse_missing_fold([r for r in species if r in decoded], fold)
    _refuse_useless_split(audio.recordings, role, held, chosen)
    index = {label.scientific_name: i for i, label in enumerate(chosen)}
    target = [
        index.get(r.scientific_name if kind == Role.SPECIES else taught_as(kind, extra), NO_LABEL)
        for r, kind in zip(audio.recordings, role, strict=True)
    ]
    return Corpus(audio, chosen, np.array(target), role, held, content_hash(recordings))


def training_windows(corpus: Corpus, grid: WindowGrid, negative_share: float) -> TrainingWindows:
    """Return the active windows of all labelled recordings that are not held out."""
    windows = active_windows(corpus.audio, grid)
    usable = ~corpus.held & (corpus.target != NO_LABEL)
    kept = np.flatnonzero(usable[windows.recording])
    windows = WindowSet(corpus.audio, grid, windows.recording[kept], windows.start[kept])
    return TrainingWindows(
        windows, corpus.target[windows.recording], corpus.role[windows.recording], negative_share
    )


def taught_as(role: int, extra: Label) -> str:
    """Return the name of the label that recordings without one of our species are taught as."""
    means_no_bird = role == Role.BACKGROUND and extra.kind is LabelKind.NO_BIRD
    return extra.scientific_name if means_no_bird or role == Role.OTHER_BIRD else ""


def recorded_at_night(recording: Recording) -> bool:
    """Return whether a name ends in a date and a time within `NIGHT_HOURS`."""
    hour = Path(recording.file).stem.rpartition("_")[2][:2]
    dusk, dawn = NIGHT_HOURS
    return hour.isdecimal() and "jura" in recording.file and (int(hour) >= dusk or int(hour) < dawn)


def _optional(folder: Path | None, tiers: Collection[str] | None) -> tuple[Recording, ...]:
    return read_recordings(folder, tiers) if folder else ()


def _without(recordings: Sequence[Recording], species: Collection[str]) -> list[Recording]:
    """Leave out recordings of our own species: they would be taught as no bird."""
    return [r for r in recordings if r.scientific_name not in species]


def _splits(
    species: Sequence[Recording],
    background: Sequence[Recording],
    unlabelled: Sequence[Recording],
    other: Sequence[Recording],
    fold: int | None,
) -> list[tuple[Recording, Role, bool]]:
    """Return each recording's role and whether it is held out."""
    return [
        *((r, Role.SPECIES, fold is not None and r.fold == fold) for r in species),
        *((r, Role.BACKGROUND, held_out(r, HELD_BACKGROUND)) for r in background),
        *(
            (r, Role.BACKGROUND, True) if recorded_at_night(r) else (r, Role.UNLABELLED, False)
            for r in unlabelled
        ),
        *((r, Role.OTHER_BIRD, held_out(r, HELD_OTHER_BIRDS)) for r in other),
    ]


def _labels(
    species: Sequence[Recording], names: Sequence[str] | None, extra: Label | None
) -> tuple[Label, ...]:
    known = dict(species_of(species))
    labels = tuple(Label(name, known.get(name, name)) for name in names or known)
    return (*labels, extra) if extra else labels


def _refuse_nothing_to_tell(
    species: Sequence[Recording], where: Path, tiers: Collection[str] | None
) -> None:
    if not species:
        listed = ", ".join(tiers or ())
        raise DataError(f"{where} has no recording of the licence tiers {listed}: choose others")
    if not any(r.scientific_name for r in species):
        raise DataError(f"{where} names no species: fill the column scientific_name")


def _refuse_missing_fold(species: Sequence[Recording], fold: int | None) -> None:
    folds = sorted({r.fold for r in species if r.fold is not None})
    if fold is not None and fold not in folds:
        mend = (
            f"choose one of {folds}" if folds else "give recordings.csv the column fold (0, 1, …)"
        )
        raise DataError(f"fold {fold} holds no recording: {mend}, or --all")


def _refuse_useless_split(
    recordings: Sequence[Recording],
    role: NDArray[np.int64],
    held: NDArray[np.bool_],
    labels: Sequence[Label],
) -> None:
    is_species = role == Role.SPECIES
    trained = {
        r.scientific_name
        for r, is_ours in zip(recordings, is_species & ~held, strict=True)
        if is_ours
    }
    names = [label.scientific_name for label in labels if label.kind is LabelKind.SPECIES]
    refuse_empty_classes(names, trained, "to train on")
