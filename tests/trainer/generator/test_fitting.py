"""An order for a generator is checked before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.onnx_models import make_tone_bundle
from tests.trainer.generator.tiny import calls, heard, photographs
from trainer import fit
from trainer.data.images import load_images, read_photographs
from trainer.generator.packing import pack


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("", "nothing to learn from: name --data and --images, or --packed"),
        ("--data . --images .", "nothing hears the calls: name the bundle of an --encoder"),
        ("--packed .", "is no packed folder"),
        ("--packed . --data .", "--packed holds recordings and photographs"),
        ("--profile fild", "profile is 'fild'; did you mean 'field'?"),
        ("--size hugo", "size is 'hugo'; one of nano, small, base"),
        ("--condition song", "condition is 'song'; one of embedding, label, mel"),
        ("--precision fp8", "precision is 'fp8'; one of auto, fp32, bf16"),
        ("--condition label --shuffled", "there are none to shuffle"),
        ("--learning-rate nan", "learning_rate is nan; must be above 0"),
        ("--pretrain-images -5", "pretrain_images is -5; 0 or more"),
        ("--half-images -1", "half_images is -1; 0 or more"),
        ("--packed . -o bundle", "-o makes a bundle that hears too"),
        ("--guidance -1", "guidance_scale is -1.0; 0 to 20"),
        ("--steps 5000", "n_steps is 5000; 1 to 1000"),
        ("--change noise.dev=1", "no 'dev' here; one of mean, std"),
    ],
)
def test_an_order_that_cannot_be_meant_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: str, said: str
) -> None:
    """Exit code 2; no folder was begun."""
    run = tmp_path / "run"
    assert fit.main(["generator", *order.split(), "--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not run.exists()


def test_another_encoder_than_heard_the_calls_is_refused_before_hours_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was packed knows whose embeddings it holds."""
    encoder = make_tone_bundle(tmp_path / "encoder")
    shown = load_images(read_photographs(photographs(tmp_path / "photographs")), tmp_path)
    pack("0123456789abcdef", shown, calls(), heard(), tmp_path / "packed")
    arguments = ["--packed", tmp_path / "packed", "--encoder", encoder.path, "--cache", tmp_path]
    assert fit.main(["generator", *map(str, arguments), "--run", str(tmp_path / "run")]) == 2
    said = f"--encoder is {encoder.encoder_id}: name the bundle of 0123456789abcdef"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_solver_that_is_none_is_refused_before_hours_of_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It was missed by the bundle, at the end of them."""
    with pytest.raises(SystemExit, match="2"):
        fit.main(["generator", "--solver", "euler"])
    assert "invalid choice: 'euler'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--data . --images . -o bundle", "go on with the same command\n"),
        ("encoder --data .", "go on with the same command and --resume\n"),
    ],
)
def test_who_is_interrupted_is_told_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    """The one command goes on by itself and has no --resume."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_sources", interrupted)
    assert fit.main(command.split()) == 130
    assert capsys.readouterr().err.endswith(said)
