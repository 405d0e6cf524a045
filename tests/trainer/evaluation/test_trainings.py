"""A training judged by its own weights is the one that was trained, sampled as was asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from fieldstation.bundle import save_generator  # noqa: E402
from fieldstation.generation.conditions import save_conditions  # noqa: E402
from fieldstation.generation.painter import Painter, psnr  # noqa: E402
from tests.onnx_models import make_painting_bundle  # noqa: E402
from tests.trainer.generator.tiny import (  # noqa: E402
    HEARD,
    TINY_PROFILE,
    UNHEARD,
    calls,
    heard,
    photographs,
)
from trainer import evaluate, fit  # noqa: E402
from trainer.data.images import load_images, read_photographs  # noqa: E402
from trainer.evaluation.gallery_page import page  # noqa: E402
from trainer.evaluation.generator import Counts, as_text  # noqa: E402
from trainer.evaluation.trainings import evaluate_run  # noqa: E402
from trainer.generator import profiles  # noqa: E402
from trainer.generator.bundling import Packaging, conditions_of  # noqa: E402
from trainer.generator.packing import pack  # noqa: E402
from trainer.generator.painting import Run, RunPainter, reopened  # noqa: E402

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("judges")

Floats = NDArray[np.float32]
SEEDS = [3, 1, 4]
AS_TRAINED = Packaging()


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a folder with a bundle that hears, what was packed, and a tiny training of it."""
    top = tmp_path_factory.mktemp("trainings")
    encoder = make_painting_bundle(top / "bundle")
    images = load_images(read_photographs(photographs(top / "photographs")), top / "cache")
    pack(encoder.encoder_id, images, calls(), heard(), top / "packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "field", TINY_PROFILE)
        assert train(top, "--keep", "--judge-every", "32") == 0
        yield top


def train(top: Path, *more: str, run: str = "run") -> int:
    """Run the command line of a tiny training."""
    arguments = ["--packed", top / "packed", "--run", top / run, "--cache", top / "cache"]
    arguments += ["--size", "tiny", "--images-seen", "64"]
    return fit.main(["generator", *map(str, arguments), *more])


def opened(top: Path, how: Packaging = AS_TRAINED, precision: str = "fp32") -> RunPainter:
    """Return the painter of the training."""
    run = Run(top / "run", top / "packed", top / "cache", "cpu", precision)
    return RunPainter(reopened(run), how)


def painted(painter: RunPainter) -> NDArray[np.uint8]:
    """Return a picture of each of three calls."""
    return painter.paint(painter.conditions.of_embeddings(calls().embedding[:3]), SEEDS)


@dataclass
class Network:
    """A training's average where a bundle has its graph."""

    generator: Any
    provider: str = "torch"

    def __call__(self, x: Floats, sigma: float, condition: Floats) -> Floats:
        """Denoise."""
        levels = torch.full((len(x),), sigma)
        with torch.inference_mode():
            x, condition = torch.from_numpy(x), torch.from_numpy(condition)
            return self.generator.denoiser(x, levels, condition).numpy()


def test_it_paints_what_its_bundle_would(top: Path) -> None:
    """The station's painter with the same weights: the same picture; and the same as twice."""
    painter = opened(top)
    fitted = reopened(Run(top / "run", top / "packed", top / "cache", "cpu"))
    generator = fitted.training.average.eval()
    bundle = make_painting_bundle(top / "as_bundle")
    save_conditions(bundle.path, conditions_of(fitted, generator))
    bundle = save_generator(bundle, painter.card, "Made by a test.")
    station = Painter(bundle, Network(generator))
    conditions = station.conditions.of_embeddings(calls().embedding[:3])
    pictures = painted(painter)
    assert psnr(station.paint(conditions, SEEDS), pictures) > 45
    np.testing.assert_array_equal(painted(opened(top)), pictures)
    assert painter.n_network_calls == station.n_network_calls
    assert set(painter.card.paints) == {*HEARD, UNHEARD}


def test_weights_are_the_average_the_last_or_a_kept_file(top: Path) -> None:
    """What was kept at the end is the average, but for its fp16; what was on the way is not."""
    average, last = painted(opened(top)), painted(opened(top, Packaging("last")))
    kept = sorted((top / "run" / "averages").glob("*.pt"))
    assert [file.stem for file in kept] == ["00000032", "00000064"]
    middle, end = (painted(opened(top, Packaging(str(file)))) for file in kept)
    assert psnr(end, average) > 40
    assert psnr(middle, average) < 30
    assert not np.array_equal(last, average)


def test_it_is_sampled_as_was_asked(top: Path) -> None:
    """Solver, steps and guidance instead of the profile's."""
    painter = opened(top, Packaging(solver="heun", n_steps=3, guidance_scale=1.0))
    pictures = painted(painter)
    assert painter.n_network_calls == 3 * 5  # Heun's last step asks once
    assert psnr(pictures, painted(opened(top))) < 30


def test_bfloat16_is_nearly_the_same_picture(top: Path) -> None:
    """And not quite: it is what was asked for."""
    similarity = psnr(painted(opened(top, precision="bf16")), painted(opened(top)))
    assert 20 < similarity < np.inf


def test_licence_tiers_hold_for_what_was_packed(top: Path) -> None:
    """Only calls of those tiers are learnt from; reopened, it is the same training."""
    assert train(top, "--tiers", "A", "--images-seen", "8", run="tiers") == 0
    fitted = reopened(Run(top / "tiers", top / "packed", top / "cache", "cpu"))
    heard_of = {fitted.calls.recordings[i].licence_tier for i in fitted.calls.recording}
    assert heard_of == {"A"}


def test_a_training_goes_on_at_the_rate_it_was_begun_with(top: Path) -> None:
    """Whoever goes on only to export says nothing of it, and the card repeats what was trained."""
    assert train(top, "--learning-rate", "5e-3", "--images-seen", "8", run="rate") == 0
    assert train(top, "--resume", "--time-limit", "0", run="rate") == 0
    assert json.loads((top / "rate" / "result.json").read_text())["learning_rate"] == 5e-3


def test_an_export_elsewhere_leaves_told_where_it_was_trained(top: Path) -> None:
    """A leg of no step, at home, is no training; one of some is."""
    assert train(top, "--images-seen", "8", run="lent") == 0
    place = top / "lent" / "result.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"device": "a lent GPU"}))
    assert train(top, "--resume", "--time-limit", "0", run="lent") == 0
    assert json.loads(place.read_text())["device"] == "a lent GPU"
    assert train(top, "--resume", "--images-seen", "24", run="lent") == 0
    assert "CPU" in json.loads(place.read_text())["device"]


def judge(top: Path, *more: str) -> int:
    """Run the command line on the training."""
    arguments = ["--run", top / "run", "--packed", top / "packed", "--cache", top / "cache"]
    return evaluate.main(["generator", *map(str, arguments), "--device", "cpu", *more])


def test_a_training_is_reported_on_as_a_bundle_is(top: Path) -> None:
    """What was trained and how it was painted stand beside the numbers; the folder stays as it
    is, even where a later leg has written more lines than its checkpoint knows of."""
    metrics = top / "run" / "metrics.jsonl"
    later = metrics.read_text() + '{"images_seen": 96}\n'
    metrics.write_text(later)
    run, counts = Run(top / "run", top / "packed", top / "cache"), Counts(12, 12, 1, 12)
    report, gallery = evaluate_run(run, Packaging(n_steps=2), None, counts)
    json.dumps(report, allow_nan=False)
    assert report["images_seen"] == 64
    assert (report["profile"], report["size"], report["weights"]) == ("field", "tiny", "average")
    told = (ROOT / "docs" / "evaluation.md").read_text()
    assert not [key for key in report if f"`{key}`" not in told]
    assert "but 0: recordings among these flatter it" in report["caution"]
    assert report["caution"] in as_text(report)
    assert report["precision_of_painting"] == "float32"
    assert report["ms_per_image"] is None
    assert report["n_calls"] == 6
    assert 0 <= report["swapped_agreement_with_donor"] <= 1
    assert report["sampling"]["n_steps"] == 2
    assert page(report, gallery).count("<img") == 3 * 2 * 6
    assert metrics.read_text() == later


def test_the_kernel_distance_alone_is_quick(
    top: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one seed, and what a picture of it cost."""
    out = tmp_path / "kid.json"
    assert judge(top, "--only-kid", "5", "--steps", "2", "--fold", "0", "--json", str(out)) == 0
    report = json.loads(out.read_text())
    assert (report["n_kid"], report["fold"]) == (5, 0)
    assert len(report["kid_by_seed"]) == 1
    assert 2 <= report["network_calls"] <= 4
    assert "fid" not in report
    assert capsys.readouterr().out == f"kid {report['kid']}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--precision", "nonsense"], "precision is 'nonsense'; one of auto, fp32, bf16"),
        (["--device", "cuda:77"], "device is 'cuda:77'"),
        (["--weights", "nonsense"], "weights is 'nonsense'; average, last, or a file"),
        (["--weights", "no.pt"], "no.pt holds no average of this network"),
        (["--weights", "{top}/run/checkpoint.pt"], "checkpoint.pt holds no average"),
        (["--steps", "0"], "n_steps is 0; 1 to 1000"),
        (["--guidance", "nan"], "guidance_scale is nan; 0 to 20"),
        (["--fold", "7"], "no call of a painted species is of fold 7"),
        (["--only-kid", "0"], "--only-kid is 0; a distance needs 2 pictures or more"),
        (["--only-kid", "9", "--html", "x.html"], "leave out --only-kid"),
        (["--data", "{top}"], "--data does nothing with --run: leave it out"),
        (["--packed", "{top}"], "is no packed folder"),
        (["--run", "{top}"], "holds no result.json that can be read"),
        (["--run", "{top}/encoders"], "is no generator's: it has no batch_size, changes, "),
        (["--run", "{top}/unsaved"], "checkpoint.pt cannot be read: No such file"),
        (["--run", "{top}/seeded"], "was trained with seed 0, not 5"),
    ],
)
def test_a_mistake_about_a_training_is_one_line(
    top: Path, capsys: pytest.CaptureFixture[str], more: Sequence[str], said: str
) -> None:
    """Exit code 2, and what to do."""
    result = json.loads((top / "run" / "result.json").read_text())
    put(top / "encoders", {"profile": "field", "fold": 0})
    put(top / "unsaved", result)
    put(top / "seeded", result | {"seed": 5})
    (top / "seeded" / "checkpoint.pt").write_bytes((top / "run" / "checkpoint.pt").read_bytes())
    assert judge(top, *(text.format(top=top) for text in more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_training_without_its_packed_folder_cannot_be_judged(
    top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was trained from is part of it."""
    assert evaluate.main(["generator", "--run", str(top / "run")]) == 2
    assert "--run is judged by --packed: name what it was trained from" in capsys.readouterr().err


def put(folder: Path, result: dict[str, Any]) -> None:
    """Write a folder with a result in it."""
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
