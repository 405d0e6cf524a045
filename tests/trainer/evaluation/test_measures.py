"""Measures against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from fieldstation.records import Label, LabelKind
from trainer.encoder.scores import auroc, calibration_error
from trainer.evaluation.hearing import Heard
from trainer.evaluation.measures import (
    accuracy,
    by_species,
    calibration,
    events_by_recording,
    strangers,
    wilson,
)
from trainer.evaluation.truth import BACKGROUND, UNKNOWN

LABELS = (
    Label("Parus major", "Great Tit"),
    Label("Pica pica", "Magpie"),
    Label("unknown bird", "Unknown bird", LabelKind.UNKNOWN_BIRD),
)


def heard(rows: list[list[list[float]]], target: list[int], unknown: bool = True) -> Heard:
    """Return windows' probabilities, by recording, as what was heard."""
    return Heard(
        probabilities=np.concatenate([np.array(r, np.float32) for r in rows]),
        owner=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        start_s=np.concatenate([np.arange(len(r)) * 1.5 for r in rows]),
        target=np.array(target),
        species=np.array([0, 1]),
        unknown=np.array([2] if unknown else [], np.int64),
    )


def random_heard(seed: int = 0) -> Heard:
    """Return thirty recordings of one to four windows, a third of them strangers."""
    generator = np.random.default_rng(seed)
    rows = [generator.random((generator.integers(1, 5), 3)).round(1).tolist() for _ in range(30)]
    return heard(rows, [(0, 1, UNKNOWN, 0, 1, BACKGROUND)[i % 6] for i in range(30)])


def test_a_recording_counts_by_the_mean_of_its_windows() -> None:
    """Two unsure windows outweigh a sure one; by window only one of three is right."""
    one = heard([[[0.9, 0.1, 0], [0.3, 0.6, 0], [0.1, 0.9, 0]], [[0.2, 0.1, 0]]], [1, 0])
    report = accuracy(one)
    assert report["recording_top1"] == 1.0
    assert report["window_top1"] == 0.75
    assert report["macro"] == 1.0


def test_macro_gives_each_species_the_same_weight() -> None:
    """Three of three great tits and none of one magpie: one half."""
    tit = [[0.9, 0.1, 0.0]]
    report = accuracy(heard([tit, tit, tit, tit], [0, 0, 0, 1]))
    assert (report["recording_top1"], report["macro"]) == (0.75, 0.5)


def test_ranked_precision_is_that_of_the_plain_formula() -> None:
    """Ties and strangers included."""
    one = random_heard()
    plain = []
    for label in one.species:
        score, is_own = one.probabilities[:, label], one.window_target == label
        plain.append(np.mean([is_own[score >= of_own].mean() for of_own in score[is_own]]))
    assert accuracy(one)["cmap"] == pytest.approx(np.mean(plain), abs=1e-4)


def test_ranked_precision_of_a_known_ranking() -> None:
    """Positives at ranks 1 and 3 give (1/1 + 2/3) / 2; a species that does not occur counts not."""
    rows = [[[score, 0.5, 0.0]] for score in (0.9, 0.8, 0.7, 0.1)]
    report = accuracy(heard(rows, [0, UNKNOWN, 0, BACKGROUND]))
    assert report["cmap"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)


def test_intervals_hold_what_they_are_of() -> None:
    """Each measure lies in its interval, and no interval is a point."""
    one = random_heard()
    report = accuracy(one) | calibration(one) | strangers(one)
    for name in ("recording_top1", "window_top1", "macro", "cmap", "ece", "unknown_auroc"):
        low, high = report[f"{name}_interval"]
        assert low < high
        assert low <= report[name] + 0.05, name
        assert report[name] <= high + 0.05, name


def test_the_calibration_error_is_of_peaks_that_could_be_events() -> None:
    """Peaks of every species in every recording from 0.1 up, strangers' too."""
    one = random_heard()
    peaks = [
        one.probabilities[one.owner == i][:, :2].max(axis=0).astype(np.float64) for i in range(30)
    ]
    said = np.concatenate(peaks)
    was = np.concatenate([one.target[i] == np.array([0, 1]) for i in range(30)])
    visible = said >= 0.1
    report = calibration(one)
    assert report["ece"] == pytest.approx(calibration_error(said[visible], was[visible]), abs=1e-4)
    assert sum(row["n"] for row in report["reliability"]) == visible.sum()


def test_true_probabilities_show_the_error_of_their_number() -> None:
    """Many true peaks come near none; few cannot, and their error is about the floor's."""
    generator = np.random.default_rng(1)
    errors, floors = {}, {}
    for n in (50, 5_000):
        said = generator.uniform(0.1, 1, n)
        rows = [[[p, 0.0, 0.0]] for p in said.tolist()]
        target = [0 if right else BACKGROUND for right in generator.random(n) < said]
        report = calibration(heard(rows, target))
        errors[n], floors[n] = report["ece"], report["ece_floor"]
    assert floors[5_000] < 0.03 < floors[50]
    assert errors[5_000] == pytest.approx(floors[5_000], abs=0.01)
    assert errors[50] == pytest.approx(floors[50], abs=0.06)


def test_reliability_says_how_often_it_was_so() -> None:
    """Two peaks of 0.85, one of them right."""
    one = heard([[[0.85, 0.0, 0.0]], [[0.85, 0.0, 0.0]]], [0, 1])
    (row,) = calibration(one)["reliability"]
    assert (row["from"], row["to"], row["n"]) == (0.8, 0.9, 2)
    assert (row["said"], row["right"]) == (0.85, 0.5)


def test_another_bird_is_told_by_its_own_label() -> None:
    """As sure of a species, but surer of another bird: only the margin sees the difference."""
    one = heard([[[0.6, 0.1, 0.1]], [[0.6, 0.1, 0.9]]], [0, UNKNOWN])
    report = strangers(one)
    assert report["unknown_auroc"] == 1.0
    assert report["unknown_auroc_by_peak"] == 0.5
    assert report["background_auroc"] is None


def test_without_a_label_for_other_birds_the_peak_decides() -> None:
    """Both unknown figures are the Mann-Whitney statistic of the peaks."""
    one = random_heard()
    bare = Heard(one.probabilities, one.owner, one.start_s, one.target, one.species, np.array([]))
    peaks = one.peaks()[:, :2].max(axis=1)
    wanted = auroc(peaks[one.target >= 0], peaks[one.target == UNKNOWN])
    report = strangers(bare)
    assert report["unknown_auroc"] == pytest.approx(wanted, abs=1e-4)
    assert report["unknown_auroc_by_peak"] == pytest.approx(wanted, abs=1e-4)


def test_events_count_where_a_species_reaches_its_threshold() -> None:
    """A label that is no species makes none, however sure."""
    one = heard([[[0.2, 0.6, 0.9]], [[0.4, 0.4, 0.9]]], [UNKNOWN, BACKGROUND])
    assert events_by_recording(one, (0.5, 0.5, 0.5)) == {
        "n_unknown": 1,
        "unknown_with_event": 1,
        "n_background": 1,
        "background_with_event": 0,
    }


def test_species_have_precision_recall_and_confusion() -> None:
    """Two great tits, one taken for a magpie; a stranger's event costs event precision alone."""
    rows = [[[0.9, 0.1, 0.0]], [[0.2, 0.8, 0.0]], [[0.9, 0.1, 0.0]]]
    report = by_species(heard(rows, [0, 0, UNKNOWN]), LABELS, (0.5, 0.5, 1.0))
    tit, magpie = report["species"]["Parus major"], report["species"]["Pica pica"]
    assert (tit["n"], tit["recall"], tit["precision"]) == (2, 0.5, 1.0)
    assert (tit["event_precision"], tit["event_recall"]) == (0.5, 0.5)
    assert (magpie["n"], magpie["recall"], magpie["precision"]) == (0, None, 0.0)
    assert report["confusion"] == {"Parus major": {"Parus major": 1, "Pica pica": 1}}


def test_a_folder_of_strangers_has_no_accuracy() -> None:
    """Nothing is made up where nothing can be measured."""
    one = heard([[[0.2, 0.1, 0.0]], [[0.05, 0.0, 0.0]]], [UNKNOWN, BACKGROUND])
    report = accuracy(one) | strangers(one)
    assert {report[name] for name in ("recording_top1", "window_top1", "macro", "cmap")} == {None}
    assert report["unknown_auroc"] is None


def test_wilson_gives_the_textbook_interval() -> None:
    """8 of 10 (Brown, Cai and DasGupta 2001 use the same form); 0 of n begins at zero."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=2e-4)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
