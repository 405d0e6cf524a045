"""What each window is to be taught as: from its recording's label, and from a teacher."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldstation.records import Label, LabelKind
from trainer.data.corpus import Corpus, Role
from trainer.data.recordings import DataError
from trainer.data.teacher import NOT_BIRDS, Lessons
from trainer.data.windows import WindowSet, active_windows
from trainer.encoder.judging import sigmoid

Floats = NDArray[np.float32]

HEARD = 0.3
"""A teacher whose best window of a label stays below did not hear it: the label alone speaks"""
CERTAIN = 0.95
"""Target of a window that holds what its recording is labelled with"""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Soft targets of windows."""

    probability: Floats
    """[windows, labels]; a sigmoid each"""
    embedding: NDArray[np.float16] | None
    """Standardised embedding of the teacher [windows, values]; None without one"""
    correction: Floats | None = None
    """What the labels add to the teacher's logits, [windows, labels], at least 0; None without a
    teacher"""


def from_labels(corpus: Corpus, windows: WindowSet) -> Targets:
    """Return targets that only the recordings' labels give: active windows hold the label."""
    probability = np.zeros((len(windows), len(corpus.labels)), np.float32)
    target = corpus.target[windows.recording]
    taught = np.flatnonzero((target >= 0) & is_active(windows))
    probability[taught, target[taught]] = CERTAIN
    return Targets(probability, None)


def from_teacher(
    corpus: Corpus, windows: WindowSet, lessons: Sequence[Lessons | None], names: Sequence[str]
) -> Targets:
    """Return targets of a teacher, corrected by what the recordings' labels say.

    The teacher tells which windows hold the labelled bird and which other birds sing along. Its
    scores for the labelled species are scaled so that the recording's best window is certain;
    where it never heard that species, the active windows count instead. Background is no bird.
    """
    probability = from_labels(corpus, windows).probability
    columns = columns_of(corpus.labels, names)
    n_values = next(len(x.embedding[0]) for x in lessons if x is not None)
    embedding = np.zeros((len(windows), n_values), np.float16)
    correction = np.zeros_like(probability)
    for i, lesson in enumerate(lessons):
        rows = np.flatnonzero(windows.recording == i)
        if lesson is None or not len(rows):
            continue
        # Both grids step 1.5 s; rounding may give one of them a window more at the end.
        place = np.minimum(np.arange(len(rows)), len(lesson.logits) - 1)
        embedding[rows] = lesson.embedding[place]
        logits = lesson.logits[place].astype(np.float32)
        heard = sigmoid(logits.astype(np.float64)).astype(np.float32)
        scores: Floats = np.stack([heard[:, c].max(axis=1) for c in columns], axis=1)
        own = names_of(corpus, i, names)
        probability[rows] = corrected(
            scores, probability[rows], int(corpus.target[i]), heard[:, own], corpus.role[i]
        )
        said: Floats = np.stack([logits[:, c].max(axis=1) for c in columns], axis=1)
        correction[rows] = raised_by(probability[rows], scores, said)
    return Targets(probability, standardised(embedding), correction)


def raised_by(probability: Floats, scores: Floats, said: Floats) -> Floats:
    """Return by how many logits labels raised a teacher's scores, [windows, labels]; else 0.

    Args:
        probability: what label and teacher say together, at most `CERTAIN` where it was raised.
        scores: the teacher's alone.
        said: its logits.
    """
    is_raised = probability > scores
    raised = np.where(is_raised, probability, 0.5).astype(np.float64)
    added: Floats = np.log(raised / (1 - raised)) - said
    return np.where(is_raised, np.maximum(added, 0.0), 0.0).astype(np.float32)


def one_of(probability: Floats, rest: int) -> Floats:
    """Return targets of which each row sums to one, for a softmax.

    Args:
        probability: one sigmoid a label, [windows, labels].
        rest: label that gets what the others leave.
    """
    others = probability.copy()
    others[:, rest] = 0.0
    total = others.sum(axis=1, keepdims=True)
    shared: Floats = others / np.maximum(total, 1.0)
    shared[:, rest] = 1.0 - shared.sum(axis=1)
    return shared


def corrected(
    scores: Floats, by_label: Floats, target: int, own: Floats, role: np.integer
) -> Floats:
    """Return a recording's targets [windows, labels].

    Args:
        scores: the teacher's, [windows, labels].
        by_label: what the label alone says, [windows, labels].
        target: label of the recording; -1 where it has none.
        own: the teacher's scores for the recording's species, [windows, 0 or 1].
    """
    if role == Role.BACKGROUND:
        return np.zeros_like(scores)
    out = scores.copy()
    if target >= 0:
        best = own.max(initial=0.0)
        certain = own[:, 0] / best * CERTAIN if best >= HEARD else by_label[:, target]
        out[:, target] = np.maximum(scores[:, target], certain)
    return out


def columns_of(labels: Sequence[Label], names: Sequence[str]) -> list[list[int]]:
    """Return which of the teacher's names speak for each label.

    A species has its own; `unknown bird` has every bird that is not among the labels.

    Raises:
        DataError: the teacher knows no such species.
    """
    ours = {label.scientific_name for label in labels}
    place = {name: i for i, name in enumerate(names)}
    species = [label.scientific_name for label in labels if label.kind is LabelKind.SPECIES]
    if strange := [name for name in species if name not in place]:
        near = difflib.get_close_matches(strange[0], place, n=1)
        hint = f"does it call it {near[0]!r}? " if near else ""
        raise DataError(
            f"the teacher knows no {strange[0]!r}: {hint}use its name, or leave --teacher out"
        )
    others = [i for i, name in enumerate(names) if name not in ours and name not in NOT_BIRDS]
    return [
        [place[label.scientific_name]] if label.kind is LabelKind.SPECIES else others
        for label in labels
    ]


def names_of(corpus: Corpus, recording: int, names: Sequence[str]) -> list[int]:
    """Return the teacher's place of a recording's species: one, or none."""
    species = corpus.audio.recordings[recording].scientific_name
    return [names.index(species)] if species in names else []


def drawing_weight(
    corpus: Corpus, windows: WindowSet, probability: Floats, class_power: float
) -> NDArray[np.float64]:
    """Return how often each window is drawn, relative to the others.

    A class's windows are drawn in proportion to (their number)^class_power; a window counts for
    its recording's class, half if its target says that nothing of it is heard.
    """
    target, role = corpus.target[windows.recording], corpus.role[windows.recording]
    group = np.where(role == Role.SPECIES, target, len(corpus.labels) + role)
    counts = np.bincount(group[~corpus.held[windows.recording]], minlength=int(group.max()) + 1)
    weight = np.maximum(counts, 1)[group].astype(np.float64) ** (class_power - 1)
    rows = np.arange(len(windows))
    is_silent = (target >= 0) & (probability[rows, np.maximum(target, 0)] < HEARD)
    weight[is_silent] *= 0.5
    return weight


def is_active(windows: WindowSet) -> NDArray[np.bool_]:
    """Return which windows are near their recording's loudest."""
    active = active_windows(windows.audio, windows.grid)
    kept = set(zip(active.recording.tolist(), active.start.tolist(), strict=True))
    pairs = zip(windows.recording.tolist(), windows.start.tolist(), strict=True)
    return np.array([pair in kept for pair in pairs], np.bool_)


def standardised(embedding: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return each value with mean 0 and spread 1 over the windows."""
    values = embedding.astype(np.float32)
    spread = values.std(axis=0) + 1e-3
    scaled: NDArray[np.float16] = ((values - values.mean(axis=0)) / spread).astype(np.float16)
    return scaled
