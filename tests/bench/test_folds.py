"""Trainings are compared over folds, each judged by the fold that it left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import folds
from fieldstation.bundle import Bundle
from tests.onnx_models import make_tone_bundle
from tests.trainer.evaluation.folders import CHAFFINCH, GREAT_TIT, write_audio, write_table

RESULT: dict[str, Any] = {
    "profile": "field",
    "teacher": None,
    "is_patient": False,
    "epochs": 3,
    "changes": [],
    "begin_from": None,
    "seconds": 1.0,
    "n_weights": 7,
    "seed": 0,
    "device": "a CPU",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones in windows of a second."""
    return make_tone_bundle(tmp_path_factory.mktemp("bundles") / "tones", activation="sigmoid")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two folds of four recordings; in the second, one chaffinch is called a great tit."""
    top = tmp_path_factory.mktemp("data")
    rows = []
    for fold in (0, 1):
        for i, pitch in enumerate((CHAFFINCH, CHAFFINCH, GREAT_TIT, GREAT_TIT)):
            is_chaffinch = pitch == CHAFFINCH and (fold, i) != (1, 1)
            name = "Fringilla coelebs" if is_chaffinch else "Parus major"
            file = f"{fold}_{i}.wav"
            write_audio(top / file, {pitch: [(0, 3)]})
            rows.append({"file": file, "scientific_name": name, "fold": fold})
    write_table(top / "recordings.csv", rows)
    return top


def trained(folder: Path, bundle: Bundle, fold: int | None, **more: object) -> Path:
    """Write what a training leaves."""
    shutil.copytree(bundle.path, folder / "bundle")
    (folder / "result.json").write_text(json.dumps(RESULT | {"fold": fold} | more))
    return folder


def test_folds_of_a_training_are_a_row(
    tones: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means and deviations between folds, whatever their order; another teacher is another row."""
    runs = [
        trained(tmp_path / "one", tones, 1),
        trained(tmp_path / "zero", tones, 0),
        trained(tmp_path / "taught", tones, 1, teacher="BirdNET", changes=["epochs=3"]),
    ]
    out = tmp_path / "folds.json"
    arguments = [*map(str, runs), "--data", str(data), "--json", str(out)]
    assert folds.main([*arguments, "--cache", str(tmp_path)]) == 0
    found = json.loads(out.read_text())
    assert list(found) == ["field, no teacher, 3 epochs", "field, teacher, 3 epochs, epochs=3"]
    plain, taught = found.values()
    assert [fold["fold"] for fold in plain["folds"]] == [0, 1]
    assert [fold["recording_top1"] for fold in plain["folds"]] == [1.0, 0.75]
    assert plain["mean"]["recording_top1"] == 0.875
    assert plain["sd"]["recording_top1"] == pytest.approx(0.125 * 2**0.5, abs=1e-4)
    assert (taught["n_folds"], taught["sd"]["recording_top1"]) == (1, None)
    assert "0.875 ± 0.177" in capsys.readouterr().out


def test_a_fold_that_was_trained_twice_counts_once(
    tones: Bundle, data: Path, tmp_path: Path
) -> None:
    """Two seeds are no second fold: their mean is."""
    runs = [
        trained(tmp_path / "zero", tones, 0),
        trained(tmp_path / "one", tones, 1),
        trained(tmp_path / "again", tones, 1, seed=1),
    ]
    out = tmp_path / "folds.json"
    arguments = [*map(str, runs), "--data", str(data), "--json", str(out)]
    assert folds.main([*arguments, "--cache", str(tmp_path)]) == 0
    (found,) = json.loads(out.read_text()).values()
    assert (found["n_folds"], len(found["folds"])) == (2, 3)
    assert found["mean"]["recording_top1"] == 0.875


def test_a_training_that_went_on_is_another_row(tones: Bundle, data: Path, tmp_path: Path) -> None:
    """Its epochs are its own alone; so is a mean of networks, whatever trained the last of them."""
    runs = [
        trained(tmp_path / "zero", tones, 0),
        trained(tmp_path / "went-on", tones, 0, begin_from="zero"),
        trained(tmp_path / "mean", tones, 0, begin_from="zero"),
    ]
    described = runs[-1] / "bundle" / "bundle.json"
    card = json.loads(described.read_text())
    card["trained_on"]["average_with"] = ["zero", "went-on"]
    described.write_text(json.dumps(card))
    out = tmp_path / "folds.json"
    arguments = [*map(str, runs), "--data", str(data), "--json", str(out)]
    assert folds.main([*arguments, "--cache", str(tmp_path)]) == 0
    plain = "field, no teacher, 3 epochs"
    begun = f"{plain}, begun with another"
    assert list(json.loads(out.read_text())) == [plain, begun, f"{begun}, mean of 3"]


def test_a_generators_training_is_a_line(
    tones: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a fold and a bundle, too."""
    run = trained(tmp_path / "painter", tones, 0)
    (run / "result.json").write_text('{"fold": 0, "images_seen": 7}')
    assert folds.main([str(run), "--data", str(data), "--json", str(tmp_path / "x.json")]) == 2
    told = capsys.readouterr().err
    assert "is no encoder's: it lacks begin_from" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([], "holds no result.json"),
        (["bundle"], "holds no result.json"),
        (["result.json"], "bundle.json"),
    ],
)
def test_a_training_that_is_not_there_is_a_line(
    tones: Bundle,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    left: list[str],
    said: str,
) -> None:
    """No folder, no result or no bundle: exit 2, and nothing is written."""
    whole, run = trained(tmp_path / "whole", tones, 0), tmp_path / "run"
    run.mkdir()
    for name in left:
        (whole / name).rename(run / name)
    out = tmp_path / "folds.json"
    assert folds.main([str(run), "--data", str(data), "--json", str(out)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_a_training_on_every_fold_is_refused(
    tones: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It knows all that could judge it."""
    run = trained(tmp_path / "all", tones, None)
    assert folds.main([str(run), "--data", str(data), "--json", str(tmp_path / "x.json")]) == 2
    assert "none is left to judge it by" in capsys.readouterr().err
