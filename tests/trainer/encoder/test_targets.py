"""What labels and a teacher say together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldstation.records import Label
from tests.trainer.data.test_windows import GRID
from tests.trainer.recordings import RATE
from trainer.data.corpus import UNKNOWN_BIRD, Corpus, Role, Sources, gather
from trainer.data.recordings import DataError
from trainer.data.teacher import Lessons
from trainer.data.windows import all_windows
from trainer.encoder.targets import (
    CERTAIN,
    columns_of,
    corrected,
    drawing_weight,
    from_labels,
    from_teacher,
    one_of,
    raised_by,
)

NAMES = ("Parus major", "Pica pica", "Turdus merula", "Engine")


@pytest.fixture
def corpus(garden: Path, tmp_path: Path) -> Corpus:
    """Return the fixture's folders with the label for other birds."""
    beside = garden.parent
    sources = Sources(garden, beside / "background", beside / "other_birds")
    return gather(sources, RATE, tmp_path, fold=0, extra=UNKNOWN_BIRD)


def test_a_teacher_speaks_for_its_own_names() -> None:
    """A species has its column; `unknown bird` all other birds, and no engine."""
    labels = [Label("Turdus merula", "Blackbird"), Label("Parus major", "Tit"), UNKNOWN_BIRD]
    assert columns_of(labels, NAMES) == [[2], [0], [1]]


def test_a_species_that_the_teacher_does_not_know_is_told() -> None:
    """Names change: what one list calls Cyanistes another calls Parus."""
    labels = [Label("Parus majoris", "Tit"), Label("Grus grus", "Crane"), UNKNOWN_BIRD]
    with pytest.raises(DataError, match="no 'Parus majoris': does it call it 'Parus major'"):
        columns_of(labels, NAMES)
    with pytest.raises(DataError, match="knows no 'Grus grus': use its name"):
        columns_of(labels[1:], NAMES)


def test_the_best_window_of_a_labelled_species_is_certain() -> None:
    """Scores of the labelled species are scaled to its best window; others stay as heard."""
    scores = np.array([[0.4, 0.2], [0.2, 0.0]], np.float32)
    out = corrected(scores, np.zeros_like(scores), 0, scores[:, :1], np.int64(Role.SPECIES))
    np.testing.assert_allclose(out, [[CERTAIN, 0.2], [CERTAIN / 2, 0.0]], rtol=1e-6)


def test_where_the_teacher_is_deaf_the_label_speaks() -> None:
    """A labelled species that the teacher never hears is taught by its active windows."""
    scores = np.array([[0.01, 0.2], [0.02, 0.0]], np.float32)
    by_label = np.array([[CERTAIN, 0.0], [0.0, 0.0]], np.float32)
    out = corrected(scores, by_label, 0, scores[:, :1], np.int64(Role.SPECIES))
    np.testing.assert_allclose(out[:, 0], [CERTAIN, 0.02])


def test_background_is_no_bird_whatever_the_teacher_says() -> None:
    """A teacher that hears a bird in rain is not believed."""
    scores = np.full((2, 3), 0.8, np.float32)
    out = corrected(scores, scores, -1, scores[:, :0], np.int64(Role.BACKGROUND))
    assert not out.any()


def test_labels_alone_teach_active_windows(corpus: Corpus) -> None:
    """Without a teacher a window holds its recording's label; other birds are unknown."""
    windows = all_windows(corpus.audio, GRID)
    targets = from_labels(corpus, windows)
    names = [label.scientific_name for label in corpus.labels]
    role = corpus.role[windows.recording]
    assert targets.probability[role == Role.OTHER_BIRD, names.index("unknown bird")].max() > 0.9
    assert not targets.probability[role == Role.BACKGROUND].any()
    assert (targets.probability.max(axis=1)[role == Role.SPECIES] > 0.9).any()


def test_a_teacher_s_answers_reach_their_windows(corpus: Corpus) -> None:
    """Each window gets the answer of its recording and time, and a standardised embedding."""
    windows = all_windows(corpus.audio, GRID)
    n = len(corpus.audio.recordings)
    lessons = [
        Lessons(
            np.zeros(1),
            np.array([[-9, -9, 2 if i == 3 else -9, 9]], np.float16),
            np.full((1, 4), i, np.float16),
        )
        for i in range(n)
    ]
    targets = from_teacher(corpus, windows, [*lessons[:-1], None], NAMES)
    merula = [label.scientific_name for label in corpus.labels].index("Turdus merula")
    of_third = np.flatnonzero(windows.recording == 3)
    assert targets.probability[of_third, merula].min() >= 1 / (1 + np.exp(-2)) - 1e-3
    assert targets.embedding is not None
    assert targets.embedding.astype(float).mean() == pytest.approx(0, abs=0.01)


def test_a_label_adds_to_an_answer_what_it_lacks() -> None:
    """In logits, and only where the target is higher than what the teacher said."""
    said = np.array([[-9.0, 2.0, 5.0, -20.0]], np.float32)
    scores = 1 / (1 + np.exp(-said))
    target = scores.copy()
    target[0, 0] = CERTAIN
    added = raised_by(target, scores, said)
    np.testing.assert_allclose(added, [[9 + np.log(CERTAIN / (1 - CERTAIN)), 0, 0, 0]], rtol=1e-5)
    assert not raised_by(np.zeros_like(scores), scores, said).any()  # background is lowered


def test_rare_classes_are_drawn_more_often(corpus: Corpus) -> None:
    """With power 0 every class weighs the same; with power 1 every window."""
    windows = all_windows(corpus.audio, GRID)
    certain = np.ones((len(windows), len(corpus.labels)), np.float32)
    flat = drawing_weight(corpus, windows, certain, class_power=1.0)
    np.testing.assert_allclose(flat, 1.0)
    even = drawing_weight(corpus, windows, certain, class_power=0.0)
    kept = ~corpus.held[windows.recording]
    role = corpus.role[windows.recording]
    of_background = even[kept & (role == Role.BACKGROUND)].sum()
    of_others = even[kept & (role == Role.OTHER_BIRD)].sum()
    assert of_background == pytest.approx(1.0)
    assert of_others == pytest.approx(1.0)


def test_softmax_targets_leave_the_rest_to_no_bird() -> None:
    """Each row sums to one; where several birds are certain, they share it."""
    heard = np.array([[0.6, 0.0, 0.9], [0.9, 0.9, 0.0], [0.0, 0.0, 0.0]], np.float32)
    expected = [[0.6, 0.0, 0.4], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(one_of(heard, rest=2), expected, atol=1e-6)
