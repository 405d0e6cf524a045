"""Splits are by recording, negatives are no bird, and held-out stays held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldstation.records import LabelKind
from tests.trainer.recordings import RATE, species_rows, write_folder
from trainer.data.corpus import Corpus, Role, Sources, gather, training_windows
from trainer.data.recordings import DataError
from trainer.data.windows import WindowGrid

GRID = WindowGrid(RATE, RATE // 2)


def corpus_of(
    garden: Path, tmp_path: Path, fold: int | None = 0, tiers: tuple[str, ...] | None = None
) -> Corpus:
    """Return the corpus of the fixture's folders."""
    beside = garden.parent
    sources = Sources(garden, beside / "background", beside / "other_birds", beside / "unlabelled")
    return gather(sources, RATE, tmp_path, fold, tiers)


def test_labels_are_the_species_and_no_bird(garden: Path, tmp_path: Path) -> None:
    """Species in order of their scientific names, then the class of background."""
    corpus = corpus_of(garden, tmp_path)
    assert [label.scientific_name for label in corpus.labels] == [
        "Parus major",
        "Turdus merula",
        "no bird",
    ]
    assert corpus.labels[-1].kind is LabelKind.NO_BIRD


def test_a_fold_is_held_out_by_recording(garden: Path, tmp_path: Path) -> None:
    """All of fold 0 is held out and nothing else of the species."""
    corpus = corpus_of(garden, tmp_path)
    held = {corpus.audio.recordings[i].fold for i in corpus.held_of(Role.SPECIES)}
    assert held == {0}
    windows = training_windows(corpus, GRID, 0.25).windows
    trained = {corpus.audio.recordings[i] for i in windows.recording}
    assert {r.fold for r in trained if r.scientific_name == "Parus major"} == {1}


def test_our_species_among_the_others_are_not_taught_as_no_bird(
    garden: Path, tmp_path: Path
) -> None:
    """A great tit in the folder of other birds is left out."""
    corpus = corpus_of(garden, tmp_path)
    assert "ours.wav" not in {r.file for r in corpus.audio.recordings}


def test_night_recordings_are_held_out_background(garden: Path, tmp_path: Path) -> None:
    """What was recorded at 23:30 is background to judge by; what at 05:30 is not used."""
    corpus = corpus_of(garden, tmp_path)
    files = {corpus.audio.recordings[i].file for i in corpus.held_of(Role.BACKGROUND)}
    assert "jura_20190522_233000.wav" in files
    assert "jura_20190522_053000.wav" not in files
    windows = training_windows(corpus, GRID, 0.25).windows
    trained = {corpus.audio.recordings[i].file for i in windows.recording}
    assert "jura_20190522_053000.wav" not in trained


def test_an_epoch_holds_every_species_window_and_its_share_of_negatives(
    garden: Path, tmp_path: Path
) -> None:
    """A quarter of an epoch is no bird, half of it background; another epoch draws others."""
    windows = training_windows(corpus_of(garden, tmp_path), GRID, 0.25)
    epoch = windows.epoch(np.random.default_rng(0))
    species = np.flatnonzero(windows.role == Role.SPECIES)
    assert set(species) <= set(epoch)
    n_negatives = len(epoch) - len(species)
    assert n_negatives / len(epoch) == pytest.approx(0.25, abs=0.03)
    roles = np.bincount(windows.role[epoch], minlength=3)
    assert roles[Role.BACKGROUND] == roles[Role.OTHER_BIRD] == n_negatives // 2
    assert set(windows.epoch(np.random.default_rng(1))) != set(epoch)


def test_without_a_fold_every_species_recording_is_trained_on(garden: Path, tmp_path: Path) -> None:
    """--all holds out background and other birds only."""
    corpus = corpus_of(garden, tmp_path, fold=None)
    assert not len(corpus.held_of(Role.SPECIES))
    assert len(corpus.held_of(Role.BACKGROUND))


def test_a_fold_that_does_not_exist_is_refused(garden: Path, tmp_path: Path) -> None:
    """The folds there are, are named, before anything is decoded."""
    with pytest.raises(DataError, match=r"fold 7 holds no recording: choose one of \[0, 1\]"):
        corpus_of(garden, tmp_path / "cache", fold=7)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_names_no_fold_is_told_how(tmp_path: Path) -> None:
    """Its owner's table has the species alone."""
    rows = [row | {"fold": ""} for row in species_rows(1)]
    with pytest.raises(DataError, match=r"give recordings\.csv the column fold"):
        gather(Sources(write_folder(tmp_path / "data", rows)), RATE, tmp_path, fold=0)


def test_nothing_to_tell_apart_is_refused(garden: Path, tmp_path: Path) -> None:
    """A tier that nothing is of, a table without species: `unknown bird` alone is no model."""
    with pytest.raises(DataError, match="no recording of the licence tiers Q: choose others"):
        corpus_of(garden, tmp_path, fold=None, tiers=("Q",))
    rows = [row | {"scientific_name": ""} for row in species_rows(1)]
    sources = Sources(write_folder(tmp_path / "data", rows), garden.parent / "background")
    with pytest.raises(DataError, match="names no species: fill the column scientific_name"):
        gather(sources, RATE, tmp_path, fold=None)


def test_tiers_that_leave_a_class_empty_are_refused(garden: Path, tmp_path: Path) -> None:
    """Tier A is fold 0 here: holding it out leaves nothing to train on."""
    with pytest.raises(DataError, match="'Parus major' has no recording to train on"):
        corpus_of(garden, tmp_path, fold=0, tiers=("A",))
