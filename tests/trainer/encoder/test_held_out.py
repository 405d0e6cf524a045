"""A trained network is calibrated by what was held out, however little that is."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.recordings import RATE  # noqa: E402
from tests.trainer.tiny import TINY  # noqa: E402
from trainer.data.corpus import Sources, gather  # noqa: E402
from trainer.encoder.calibration import THRESHOLD_RANGE  # noqa: E402
from trainer.encoder.fitting import Fitted  # noqa: E402
from trainer.encoder.held_out import calibrate  # noqa: E402
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


def test_a_fold_is_what_the_scale_and_the_report_rest_on(garden: Path, tmp_path: Path) -> None:
    """Three recordings of each species are held out."""
    calibration = calibrate(fitted(garden, tmp_path, fold=0))
    assert calibration.report["recordings"]["species"] == 6
    assert calibration.report["labels"]["Parus major"]["n"] == 3
    assert calibration.scale.temperature != 1.0
