"""How far a student is from its teacher is told apart: where the teacher is sure, and where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.teacher_gap import gap
from trainer.data.recordings import DataError
from trainer.evaluation.hearing import Heard

TEACHER = Heard(
    probabilities=np.array(
        [[0.9, 0.1, 0.2], [0.8, 0.1, 0.2], [0.02, 0.01, 0.9], [0.01, 0.02, 0.9]], np.float32
    ),
    owner=np.array([0, 0, 1, 1]),
    start_s=np.array([0.0, 1.5, 0.0, 1.5]),
    target=np.array([0, 0]),
    species=np.array([0, 1]),
    unknown=np.array([2]),
)


def test_a_student_that_says_the_same_has_no_gap() -> None:
    """Whatever it takes for an unknown bird: order is the species' own."""
    same = replace(TEACHER, probabilities=TEACHER.probabilities * np.array([1, 1, 0.1], np.float32))
    found = gap(same, TEACHER)
    assert found["n_windows"] == 4
    assert found["sure_and_right"] == 0.5
    assert found["right_there"] == found["same_species"] == 1
    assert found["right_elsewhere"] == found["birdnet_right_elsewhere"] == 0.5
    assert found["disorder"] == pytest.approx(0, abs=1e-6)


def test_an_order_that_is_lost_among_the_unlikely_counts() -> None:
    """No probability above 0.02 differs by more than 0.01."""
    lost = TEACHER.probabilities.copy()
    lost[2] = [0.01, 0.02, 0.9]
    found = gap(replace(TEACHER, probabilities=lost), TEACHER)
    assert found["right_there"] == 1
    assert found["right_elsewhere"] == 0
    assert found["same_species"] == 0.75
    assert found["disorder"] > 0.05


def test_labels_may_stand_elsewhere() -> None:
    """A bundle whose unknown bird comes first: a species is what it is, not its column."""
    moved = replace(
        TEACHER,
        probabilities=TEACHER.probabilities[:, [2, 0, 1]],
        target=TEACHER.target + 1,
        species=np.array([1, 2]),
        unknown=np.array([0]),
    )
    assert gap(moved, TEACHER) == gap(TEACHER, TEACHER)


def test_other_windows_are_not_compared() -> None:
    """One window more or less shifts all that follow."""
    fewer = replace(
        TEACHER,
        probabilities=TEACHER.probabilities[:3],
        owner=TEACHER.owner[:3],
        start_s=TEACHER.start_s[:3],
    )
    with pytest.raises(DataError, match="windows are not BirdNET's"):
        gap(fewer, TEACHER)


def test_where_the_teacher_is_never_sure_nothing_is_right_there() -> None:
    """Nothing of nothing is no number, which JSON has none for."""
    unsure = replace(TEACHER, probabilities=TEACHER.probabilities / 10)
    assert gap(TEACHER, unsure)["right_there"] is None
