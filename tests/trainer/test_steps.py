"""The one command: from recordings and pictures to a bundle that hears and paints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnxscript", reason="needs the extra 'train'")
pytest.importorskip("onnxruntime", reason="needs the extra 'cpu' or 'gpu'")

from fieldstation.bundle import Bundle, load_bundle  # noqa: E402
from fieldstation.generation.conditions import Call  # noqa: E402
from fieldstation.generation.denoiser import OnnxDenoiser, check_generator  # noqa: E402
from fieldstation.generation.painter import Painter, check_picture  # noqa: E402
from tests.trainer.generator.tiny import TINY_PROFILE  # noqa: E402
from tests.trainer.photographs import (  # noqa: E402
    nearest_species,
    photograph_rows,
    write_photographs,
)
from tests.trainer.recordings import write_folder  # noqa: E402
from tests.trainer.tiny import TINY as TINY_ENCODER  # noqa: E402
from trainer import fit  # noqa: E402
from trainer.encoder import profiles as encoder_profiles  # noqa: E402
from trainer.generator import profiles  # noqa: E402
from trainer.generator.embeddings import Calls, load_calls  # noqa: E402

PITCHES = {"Turdus merula": 1200, "Parus major": 3000, "Erithacus rubecula": 7000}
N_IMAGES = 1200
N_PAINTED = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tones of three pitches, and drawings of three colours, under three names."""
    top = tmp_path_factory.mktemp("data")
    rows: list[dict[str, object]] = [
        {
            "file": f"{name.split()[0]}_{i}.wav",
            "scientific_name": name,
            "fold": i % 2,
            "frequency": pitch + 30 * i,
        }
        for name, pitch in PITCHES.items()
        for i in range(4)
    ]
    write_folder(top / "calls", rows)
    write_photographs(top / "pictures", photograph_rows(PITCHES, n_train=24, n_val=2))
    return top


@pytest.fixture(autouse=True, scope="module")
def tiny_profiles() -> object:
    """Let `--encoder-profile tiny --size tiny` name networks that train in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder_profiles.PROFILES, "tiny", TINY_ENCODER)
        patch.setitem(profiles.PROFILES, "field", TINY_PROFILE)
        yield


def command(data: Path, output: Path, *more: str) -> int:
    """Run the one command; both trainings share the folder of steps."""
    arguments = ["--data", data / "calls", "--images", data / "pictures", "-o", output]
    arguments += ["--no-negatives", "--encoder-profile", "tiny", "--size", "tiny"]
    arguments += ["--images-seen", N_IMAGES, "--run", data / "steps", "--cache", data / "cache"]
    return fit.main([*map(str, arguments), *more])


@pytest.fixture(scope="module")
def bundle(data: Path) -> Bundle:
    """Return the bundle that the one command makes, its generator stopped once on the way."""
    assert command(data, data / "tones", "--time-limit", "1") == 2
    assert command(data, data / "tones") == 0
    return load_bundle(data / "tones")


def held_out_calls(bundle: Bundle, data: Path) -> Calls:
    """Return calls that neither encoder nor generator has heard in training."""
    calls = load_calls(bundle, data / "calls", data / "cache")
    return calls.only([r.fold == 0 for r in calls.recordings])


def agreement(bundle: Bundle, data: Path) -> float:
    """Return how many pictures have the colour of the species whose call they were made from."""
    painter = Painter(bundle, OnnxDenoiser(bundle))
    calls = held_out_calls(bundle, data)
    chosen = np.linspace(0, len(calls.recording) - 1, N_PAINTED).astype(int)
    names = [str(calls.species[i]) for i in chosen]
    conditions = [
        painter.condition_of(Call(name, calls.embedding[i], bundle.encoder_id))
        for name, i in zip(names, chosen, strict=True)
    ]
    pictures = painter.paint(np.stack(conditions), range(N_PAINTED))
    seen = nearest_species(pictures, PITCHES)
    return float(np.mean([a == b for a, b in zip(seen, names, strict=True)]))


def test_pictures_agree_with_the_calls_they_were_made_from(bundle: Bundle, data: Path) -> None:
    """Calls that nobody trained on are painted in their species' colour."""
    assert agreement(bundle, data) > 0.8


def test_the_shuffled_twin_is_at_chance(bundle: Bundle, data: Path, capsys) -> None:
    """Trained with any species' calls beside each picture, it paints any colour; the encoder,
    whose inputs are the same, is not trained again."""
    assert command(data, data / "twin", "--shuffled") == 0
    assert f"encoder {bundle.encoder_id}: its inputs are unchanged" in capsys.readouterr().out
    assert agreement(load_bundle(data / "twin"), data) < 0.5


def test_a_step_with_the_same_inputs_is_not_done_again(bundle: Bundle, data: Path, capsys) -> None:
    """Nothing is trained the second time, and the bundle stays as it is."""
    before = (bundle.path / "bundle.json").stat().st_mtime_ns
    assert command(data, data / "tones") == 0
    said = capsys.readouterr().out
    assert f"generator {bundle.generator_id}: its inputs are unchanged" in said
    assert f"{data / 'tones'}: unchanged" in said
    assert (bundle.path / "bundle.json").stat().st_mtime_ns == before


def test_the_bundle_keeps_its_promises(bundle: Bundle) -> None:
    """Golden output and picture come out again; card and notice say what it is made of."""
    card = bundle.generator
    assert card is not None
    assert bundle.name == "tones"
    denoiser = OnnxDenoiser(bundle)
    assert check_generator(denoiser, bundle) < 1e-6
    assert check_picture(Painter(bundle, denoiser), bundle) > 45
    assert card.encoder_id == bundle.encoder_id
    assert set(card.paints) == set(PITCHES)
    assert card.metrics["export_max_abs_delta"] < 1e-3
    assert card.trained_on["images_seen"] == N_IMAGES
    assert card.trained_on["photographs"] == {"garden": 72}
    assert "CC0" in card.licence
    notice = (bundle.path / "NOTICE.generator").read_text()
    assert "72  CC0" in notice
    assert "24  Parus major" in notice


def test_a_stopped_generator_went_on_where_it_stood(bundle: Bundle, data: Path) -> None:
    """The first run, a second long, left a checkpoint that the second took up."""
    (folder,) = [
        p.parent
        for p in (data / "steps").glob("generator-*/result.json")
        if not json.loads(p.read_text())["shuffled"]
    ]
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["images_seen"] == N_IMAGES
    assert (folder / "checkpoint.pt").is_file()
    assert list((folder / "sheets").glob("*.png"))


def test_species_vectors_paint_without_an_embedding(bundle: Bundle) -> None:
    """What a foreign bundle would paint: each species from its learnt vector."""
    painter = Painter(bundle, OnnxDenoiser(bundle))
    names = [name for name in PITCHES for _ in range(4)]
    conditions = np.stack([painter.condition_of(Call(name)) for name in names])
    seen = nearest_species(painter.paint(conditions, range(len(names))), PITCHES)
    assert np.mean([a == b for a, b in zip(seen, names, strict=True)]) > 0.7


def test_a_mistake_is_one_line(data: Path, tmp_path: Path, capsys) -> None:
    """A folder without photographs, a size that is none: 2, and what to do."""
    calls, pictures = ["--data", str(data / "calls")], ["--images", str(data / "pictures")]
    encoder = ["--encoder", str(data / "tones"), "--cache", str(tmp_path)]
    empty = ["--images", str(tmp_path)]
    assert fit.main(["generator", *calls, *empty, *encoder, "--size", "tiny"]) == 2
    assert "has no images.csv" in capsys.readouterr().err
    assert fit.main(["generator", *calls, *pictures, *encoder, "--size", "hugo"]) == 2
    assert "size is 'hugo'; one of tiny" in capsys.readouterr().err


def test_another_precision_reaches_the_bundle(bundle: Bundle, data: Path, capsys) -> None:
    """It changes thresholds alone: the same weights, and a generator that is not made again."""
    for precision in ("0.6", "0.9"):
        assert command(data, data / "precise", "--precision", precision) == 0
        assert f"generator {bundle.generator_id}: its inputs" in capsys.readouterr().out
        found = load_bundle(data / "precise")
        assert (found.encoder_id, found.generator_id) == (bundle.encoder_id, bundle.generator_id)
        assert found.metrics["calibration"]["precision"] == float(precision)
        assert check_generator(OnnxDenoiser(found), found) < 1e-6
