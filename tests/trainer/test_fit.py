"""From a folder of recordings to a bundle that names them, by the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnxscript", reason="needs the extra 'train'")
pytest.importorskip("onnxruntime", reason="needs the extra 'cpu' or 'gpu'")

from fieldstation.bundle import load_bundle, load_golden  # noqa: E402
from tests.onnx_models import make_painting_bundle  # noqa: E402
from tests.trainer.tiny import TINY  # noqa: E402
from trainer import evaluate, fit  # noqa: E402
from trainer.data.corpus import Sources  # noqa: E402
from trainer.encoder import profiles  # noqa: E402
from trainer.encoder.bundling import card, last_measured  # noqa: E402
from trainer.encoder.fitting import EncoderOrder, Fitted, fit_encoder, teacher_of  # noqa: E402
from trainer.encoder.running import cpu_session, run_logits  # noqa: E402


@pytest.fixture(scope="module")
def run(garden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit the tiny profile; return its run folder, with the bundle inside."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "tiny", TINY)
        arguments = ["encoder", "--data", str(garden), "--profile", "tiny", "--run", str(folder)]
        assert fit.main([*arguments, "--cache", str(folder / "cache")]) == 0
    return folder


def test_the_bundle_is_whole(run: Path) -> None:
    """The bundle loads, says what it was trained on, and carries licence and recordists."""
    bundle = load_bundle(run / "bundle")
    assert [label.scientific_name for label in bundle.labels][-1] == "no bird"
    assert bundle.samples_per_window == TINY.samples_per_window
    assert bundle.trained_on["licence_tiers"] == ["B"]
    assert bundle.trained_on["recordists"] == ["Recordist 1", "Recordist 3", "Recordist 5"]
    assert bundle.licence == "CC BY-NC-SA 4.0"
    text = (run / "bundle" / "NOTICE").read_text()
    assert "Recordist 3" in text
    assert "CC BY-NC-SA 4.0" in text


@pytest.mark.parametrize("n", [1, 3])
def test_the_graph_gives_the_golden_logits_at_any_batch_size(run: Path, n: int) -> None:
    """One window at a time or three at once: the same logits."""
    bundle = load_bundle(run / "bundle")
    golden = load_golden(bundle)
    session = cpu_session(bundle.encoder_path)
    tolerance = bundle.tolerance["CPUExecutionProvider"]
    for first in range(0, 3, n):
        logits = run_logits(session, golden.waveform[first : first + n])
        np.testing.assert_allclose(logits, golden.logits[first : first + n], atol=tolerance)


def test_silence_gives_finite_outputs(run: Path) -> None:
    """Digital silence gives numbers at every output."""
    session = cpu_session(run / "bundle" / "encoder.onnx")
    outputs = session.run(None, {"waveform": np.zeros((1, 22_050), np.float32)})
    assert [o.name for o in session.get_outputs()] == ["logits", "embedding", "mel"]
    assert load_bundle(run / "bundle").outputs.frame_logits is None
    assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize(("loudness", "is_half"), [(0.1, True), (3.0, False)])
def test_large_weights_are_stored_as_half_where_it_costs_nothing(
    tmp_path: Path, loudness: float, is_half: bool
) -> None:
    """The graph gives the network's logits to a thousandth; the front end is never halved."""
    import onnx

    from trainer.encoder.bundling import golden_waveforms, write_graph
    from trainer.encoder.mel import LogMel

    torch.manual_seed(0)
    network = TINY.network(3)
    with torch.no_grad():
        network.blocks[2].weight *= loudness
    fitted = Fitted(network, TINY, None, None, {})  # type: ignore[arg-type]
    graph = tmp_path / "encoder.onnx"
    assert write_graph(fitted, graph, golden_waveforms(22_050, 22_050)) < 1e-3
    stored = onnx.load(graph).graph.initializer
    halves = [t for t in stored if t.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(t.dims) for t in halves) == (128 * 8 * 9 if is_half else 0)
    full = {int(np.prod(t.dims)) for t in stored if t.data_type == onnx.TensorProto.FLOAT}
    for_training = ("window", "by_line")
    matrices = dict(LogMel(TINY.mel).named_buffers())
    assert {m.numel() for name, m in matrices.items() if name not in for_training} <= full


def test_the_result_says_how_it_was_made(run: Path) -> None:
    """Device, seed, versions, data hash and seconds stand in the result."""
    result = json.loads((run / "result.json").read_text())
    assert result["seed"] == 0
    assert len(result["data_hash"]) == 64
    assert result["versions"]["torch"] == torch.__version__
    assert result["epochs"] == len(result["history"]) == TINY.epochs
    assert result["seconds"] > 0
    assert "CPU" in result["device"] or "GPU" in result["device"]


def test_an_export_elsewhere_leaves_told_what_trained(
    run: Path, garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on with a finished run takes no step and tells nothing new; another epoch does."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    place = folder / "result.json"
    elsewhere = {
        "device": "a lent GPU",
        "versions": {"torch": "1.0"},
        "finished_at": "2020-02-02",
        "teacher": "BirdNET V2.4",
        "is_patient": True,
        "begin_from": "an older run",
    }
    place.write_text(json.dumps(json.loads(place.read_text()) | elsewhere))
    before = json.loads(place.read_text())
    beside = (garden.parent / name for name in ("background", "other_birds", "unlabelled"))
    order = EncoderOrder(Sources(garden, *beside), "tiny", folder, run / "cache", resume=True)
    told = card(fit_encoder(order))
    assert json.loads(place.read_text()) == before
    assert (told["device"], told["teacher"]) == ("a lent GPU", "BirdNET V2.4")
    fit_encoder(replace(order, n_epochs=TINY.epochs + 1))
    after = json.loads(place.read_text())
    assert "CPU" in after["device"]
    assert after["finished_at"] > before["finished_at"]


def test_a_teacher_of_the_beginning_is_not_forgotten(tmp_path: Path) -> None:
    """Its licence binds what goes on from there without it; NOTICE must name it."""
    order = EncoderOrder(Sources(tmp_path), "field", tmp_path / "new", tmp_path)
    assert teacher_of(order) is None
    assert "BirdNET" in str(teacher_of(replace(order, teacher=tmp_path)))
    later = replace(order, begin_from=tmp_path / "old")
    assert teacher_of(later) is None
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "result.json").write_text('{"teacher": "BirdNET V2.4"}', encoding="utf-8")
    assert teacher_of(later) == "BirdNET V2.4"
    assert teacher_of(replace(order, average_with=(tmp_path / "old",))) == "BirdNET V2.4"


def test_what_a_training_comes_from_is_in_its_checkpoint(
    run: Path, garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who resumes it without naming teacher and beginning forgets neither: a licence hangs on it.

    Nor is it gone on from as if it had begun elsewhere.
    """
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    begun = Path(shutil.copytree(run, tmp_path / "begun"))
    (begun / "result.json").write_text('{"teacher": "BirdNET V2.4"}')
    beside = (garden.parent / name for name in ("background", "other_birds", "unlabelled"))
    order = EncoderOrder(Sources(garden, *beside), "tiny", tmp_path / "new", run / "cache")
    fit_encoder(replace(order, begin_from=begun, n_epochs=1))
    (tmp_path / "new" / "result.json").unlink()  # as where it was killed
    told = fit_encoder(replace(order, resume=True, n_epochs=2)).result
    assert (told["teacher"], told["begin_from"]) == ("BirdNET V2.4", "begun")
    with pytest.raises(ValueError, match="began with begun, not run: drop --begin-from"):
        fit_encoder(replace(order, resume=True, begin_from=tmp_path / "run"))


def test_a_mean_of_trainings_is_exported(
    run: Path, garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With itself a training's mean is itself; with what it came from, it lies between."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    beside = (garden.parent / name for name in ("background", "other_birds", "unlabelled"))
    order = EncoderOrder(Sources(garden, *beside), "tiny", run, run / "cache", resume=True)
    alone = fit_encoder(order)
    assert card(alone)["average_with"] == []
    begun = Path(shutil.copytree(run, tmp_path / "begun"))
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    kind = "average" if state["average"] else "network"
    state[kind] = {
        name: value + 3 if value.is_floating_point() else value
        for name, value in state[kind].items()
    }
    torch.save(state, begun / "checkpoint.pt")
    mean = fit_encoder(replace(order, average_with=(begun, run)))
    assert card(mean)["average_with"] == ["begun", run.name]
    assert list(last_measured(alone)) == ["held_out"]
    assert list(last_measured(mean)) == ["held_out_of_last_part"]
    for name, value in alone.network.state_dict().items():
        found = mean.network.state_dict()[name]
        moved = int(value.is_floating_point())
        assert torch.allclose(found, value + moved, atol=1e-4), name
    with pytest.raises(ValueError, match=r"--average-with .+ holds no checkpoint"):
        fit_encoder(replace(order, average_with=(tmp_path,)))


def test_what_cannot_be_exported_is_told_before_anything_is_trained(
    run: Path,
    garden: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mean with a training that is not there, or knew the held-out fold; others' thresholds."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    arguments = ["encoder", "--data", str(garden), "--profile", "tiny", "--run", str(tmp_path)]
    like = ["--all", "--thresholds-from", str(run / "bundle")]
    for more, said in (
        (["--average-with", str(tmp_path / "none")], "none holds no checkpoint"),
        (["--fold", "1", "--average-with", str(run)], "left out fold 0, so it was taught"),
        (["--all", "--thresholds-from", str(tmp_path / "none")], "none is no bundle"),
        (like[1:], "--thresholds-from goes with --all"),
        ([*like, "--precision", "0.7"], "were chosen for 0.9: leave --precision out"),
    ):
        assert fit.main([*arguments, *more]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_training_on_everything_takes_the_thresholds_of_one_that_was_judged(
    run: Path, garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says whose they are; the precision that they were chosen for may be repeated."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    arguments = ["encoder", "--data", str(garden), "--profile", "tiny", "--epochs", "1", "--all"]
    more = ["--run", str(tmp_path), "--cache", str(run / "cache"), "--precision", "0.9"]
    assert fit.main([*arguments, *more, "--thresholds-from", str(run / "bundle")]) == 0
    made, like = load_bundle(tmp_path / "bundle"), load_bundle(run / "bundle")
    assert made.temperature == like.temperature
    assert all(a >= b for a, b in zip(made.thresholds, like.thresholds, strict=True))
    assert made.metrics["calibration"]["from_encoder"] == like.encoder_id
    assert made.metrics["calibration"]["fold"] == 0


def test_evaluation_finds_what_was_taught(run: Path, garden: Path, tmp_path: Path) -> None:
    """Two pitches are told apart, and the report has what it promises."""
    report = tmp_path / "report.json"
    arguments = ["encoder", "--bundle", str(run / "bundle"), "--data", str(garden)]
    assert evaluate.main([*arguments, "--json", str(report), "--cache", str(tmp_path)]) == 0
    found = json.loads(report.read_text())
    assert found["recording_top1"] >= 0.9
    assert found["recording_top1_interval"][0] <= found["recording_top1"]
    assert found["confusion"]["Parus major"]["Parus major"] >= 5
    assert found["species"]["Parus major"]["n"] == 6
    assert found["n_recordings"] == 12


def test_a_training_on_everything_says_what_its_thresholds_rest_on(
    garden: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a held-out fold they rest on nothing, and its bundle hardly tells anything."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    arguments = ["encoder", "--data", str(garden), "--profile", "tiny", "--epochs", "1"]
    more = ["--all", "--no-negatives", "--run", str(tmp_path), "--cache", str(tmp_path)]
    assert fit.main([*arguments, *more]) == 0
    assert "--thresholds-from BUNDLE takes those" in capsys.readouterr().out
    assert min(load_bundle(tmp_path / "bundle").thresholds) > 0.9


def test_a_finished_run_is_not_overwritten(
    run: Path, garden: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command again says what to do and leaves the checkpoint alone."""
    monkeypatch.setitem(profiles.PROFILES, "tiny", TINY)
    before = (run / "checkpoint.pt").read_bytes()
    arguments = ["encoder", "--data", str(garden), "--profile", "tiny", "--run", str(run)]
    assert fit.main([*arguments, "--cache", str(run / "cache")]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert (run / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "/nowhere"], "/nowhere is no folder"),
        (["--data", "{empty}"], "names no recordings"),
        (["--data", "{garden}", "--profile", "papr"], "did you mean 'paper'?"),
        (["--data", "{garden}", "--fold", "9"], "fold 9 holds no recording"),
        (["--data", "{garden}", "--device", "abacus"], "device is 'abacus'"),
        (["--data", "{garden}", "--labels", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    garden: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """Bad input exits 2 with one line that names the value."""
    (tmp_path / "empty").mkdir()
    filled = [a.format(garden=garden, empty=tmp_path / "empty") for a in arguments]
    code = fit.main(["encoder", *filled, "--cache", str(tmp_path), "--run", str(tmp_path / "run")])
    assert code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--epochs", "0"), ("--epochs", "-3"), ("--threads", "none"), ("--precision", "7")),
        *(("--time-limit", "0"), ("--time-limit", "nan"), ("--time-limit", "1 h")),
        ("--tiers", " , "),
    ],
)
def test_a_number_that_cannot_be_meant_is_told_before_anything_is_read(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """Not after an hour of decoding."""
    with pytest.raises(SystemExit) as ended:
        fit.main(["encoder", "--data", "/nowhere", option, value])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option in said
    assert repr(value) in said


@pytest.mark.parametrize("model", ["whole", "encoder", "generator"])
def test_a_list_of_tiers_may_have_spaces(model: str) -> None:
    """`A, B` meant A alone: the second was no tier of any recording."""
    given = [model, "--data", "d", "--images", "i", "-o", "b", "--tiers", "A, B,"]
    wanted = [word for word in given if model != "encoder" or word not in ("--images", "i")]
    assert fit.parser().parse_args(wanted).tiers == ("A", "B")


def test_labels_of_a_spreadsheet_are_read(
    garden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose first line begins with a mark of its encoding."""
    labels = tmp_path / "labels.txt"
    labels.write_text("Parus major\n", encoding="utf-8-sig")
    arguments = ["encoder", "--data", str(garden), "--labels", str(labels), "--all"]
    assert fit.main([*arguments, "--run", str(tmp_path), "--cache", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "known: Parus major" in told


def test_without_a_word_it_says_how_it_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever types the bare name sees examples; it is still a mistake."""
    assert fit.main([]) == 2
    assert "trainer.fit --data birds --images photographs" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    """The command line answers before anything heavy is imported."""
    code = (
        "import sys, trainer.fit\n"
        "trainer.fit.parser().format_help()\n"
        "print([m for m in ('torch', 'librosa', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_bundle_does_not_tell_where_it_was_made(run: Path) -> None:
    """torch notes for each node which line of which file made it: the hash would depend on it."""
    graph = (run / "bundle" / "encoder.onnx").read_bytes()
    root = Path(fit.__file__).parent.parent
    assert str(root).encode() not in graph
    assert b".py" not in graph


def test_a_bundle_that_paints_is_not_given_another_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its generator would stand behind without a word; said before anything is trained."""
    painter = make_painting_bundle(tmp_path / "painter")
    described = (painter.path / "bundle.json").read_text()
    data = str(tmp_path / "none")
    assert fit.main(["encoder", "--data", data, "-o", str(painter.path)]) == 2
    assert "painter paints, and another encoder" in capsys.readouterr().err
    assert (painter.path / "bundle.json").read_text() == described
    assert fit.main(["encoder", "--data", data, "-o", str(tmp_path / "new")]) == 2
    assert "another encoder" not in capsys.readouterr().err
