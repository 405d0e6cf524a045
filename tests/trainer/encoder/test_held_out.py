"""A trained network is calibrated by what was held out, however little that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from fieldstation.records import Label  # noqa: E402
from tests.trainer.recordings import RATE  # noqa: E402
from tests.trainer.tiny import TINY  # noqa: E402
from trainer.data.corpus import Sources, gather  # noqa: E402
from trainer.encoder.calibration import THRESHOLD_RANGE  # noqa: E402
from trainer.encoder.fitting import Fitted  # noqa: E402
from trainer.encoder.held_out import calibrate, describe_thresholds  # noqa: E402
from trainer.encoder.training import Progress  # noqa: E402


def fitted(garden: Path, cache: Path, fold: int | None) -> Fitted:
    """Return an untrained network of a folder of species alone."""
    corpus = gather(Sources(garden), RATE, cache, fold)
    network = TINY.network(len(corpus.labels)).eval()
    return Fitted(network, TINY, corpus, Progress(), {"fold": fold})


def test_nothing_held_out_leaves_the_highest_thresholds(garden: Path, tmp_path: Path) -> None:
    """--all and --no-negatives: nothing proves a threshold, and the training is not lost."""
    calibration = calibrate(fitted(garden, tmp_path, fold=None))
    assert (calibration.scale.temperature, calibration.scale.offsets) == (1.0, ())
    assert calibration.thresholds == (THRESHOLD_RANGE[1],) * 2
    worth = calibration.report["labels"]["Parus major"]
    assert (worth["precision"], worth["recall"], worth["n"]) == (None, None, 0)


def test_what_a_threshold_is_worth_is_told_for_the_mix() -> None:
    """One right event, and two wrong ones of other birds, which count a quarter each there."""
    labels = [Label("Parus major", "Great Tit"), Label("Pica pica", "Magpie")]
    peaks = np.array([[0.9, 0.1], [0.3, 0.1], [0.8, 0.1], [0.7, 0.1]])
    target, weight = np.array([0, 0, -1, -1]), np.array([1.0, 1.0, 0.25, 0.25])
    told = describe_thresholds(labels, [0.5, 0.5], peaks, target, weight)
    assert told["Parus major"] == {"threshold": 0.5, "precision": 0.667, "recall": 0.5, "n": 2}
    assert told["Pica pica"] == {"threshold": 0.5, "precision": None, "recall": None, "n": 0}


def test_a_fold_is_what_the_scale_and_the_report_rest_on(garden: Path, tmp_path: Path) -> None:
    """Three recordings of each species are held out."""
    calibration = calibrate(fitted(garden, tmp_path, fold=0))
    assert calibration.report["recordings"]["species"] == 6
    assert calibration.report["labels"]["Parus major"]["n"] == 3
    assert calibration.scale.temperature != 1.0
