"""Generators whose worth is known: the judging must find what is true of each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra 'train'")

from PIL import Image

from fieldstation.generation.conditions import Conditions
from fieldstation.generation.sampling import Sampling
from fieldstation.generator_card import GeneratorCard
from tests.onnx_models import COLOURS, TONES, make_painting_bundle
from tests.trainer.evaluation.folders import write_audio, write_table
from tests.trainer.photographs import (
    drawing,
    photograph_rows,
    write_photographs,
)
from trainer import evaluate
from trainer.data.images import TRAIN, ImageSet, load_images, read_photographs
from trainer.evaluation import features
from trainer.evaluation.generator import (
    Counts,
    Gallery,
    faithfulness,
    likeness,
    memory_report,
    photographs_of,
)
from trainer.evaluation.pictures import Calls

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("judges")

NAMES = ("Cyanistes caeruleus", "Parus major", "Turdus merula")
CARD = GeneratorCard(encoder_id="0123456789abcdef", paints=NAMES)
PROMISED = (
    *("fid", "fid_floor", "kid", "precision", "recall", "agreement", "agreement_ceiling"),
    *("swapped_agreement_with_own_label", "swapped_agreement_with_donor", "memorised"),
    *("network_calls", "ms_per_image"),
)


@dataclass(slots=True)
class StandIn:
    """A painter that is no network: it reads a species from the condition and draws."""

    draws: Callable[[str, int], Pixels]
    """Picture of a species and a seed"""
    whom: Callable[[int, int], int]
    """Species painted, of the one that called and the seed"""
    conditions: Conditions
    card: GeneratorCard = CARD
    n_network_calls: int = 0

    @property
    def sampling(self) -> Sampling:
        """Return the card's."""
        return Sampling.of_card(self.card)

    def paint(self, conditions: Floats, seeds: Sequence[int]) -> Pixels:
        """Return a drawing for each."""
        self.n_network_calls += len(seeds)
        callers = conditions[:, : len(NAMES)].argmax(axis=1).tolist()
        pairs = zip(callers, seeds, strict=True)
        return np.stack([self.draws(NAMES[self.whom(s, seed)], seed) for s, seed in pairs])


def caller(species: int, seed: int) -> int:
    """Return the one that called."""
    return species


def anyone(species: int, seed: int) -> int:
    """Return whom the seed says, whoever called."""
    return seed % len(NAMES)


def fresh(name: str, seed: int) -> Pixels:
    """Return a drawing that is among no photographs."""
    return np.asarray(drawing(name, seed + 10_000, 64, 64))


def noise(name: str, seed: int) -> Pixels:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Return drawings of three species, of each forty to train on and ten aside."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = photograph_rows(NAMES, n_train=40, n_val=10)
    return load_images(read_photographs(write_photographs(folder, rows)), folder / "cache")


def calls(n_each: int = 6, n_wrong: int = 0) -> Calls:
    """Return calls that say whose they are; the encoder errs in the first ones."""
    species = np.repeat(np.arange(len(NAMES)), n_each)
    embedding = np.random.default_rng(0).normal(0, 0.3, (len(species), 512)).astype(np.float32)
    embedding[np.arange(len(species)), species] = 3.0
    right = np.arange(len(species)) >= n_wrong
    return Calls(species, embedding, right, np.arange(len(species)), np.zeros_like(embedding))


def gallery(
    images: ImageSet,
    cache: Path,
    draws: Callable[[str, int], Pixels] = fresh,
    whom: Callable[[int, int], int] = caller,
    heard: Calls | None = None,
) -> Gallery:
    """Return a stand-in with what it is judged by."""
    labels = np.zeros((len(NAMES), 512), np.float32)
    np.fill_diagonal(labels, 3.0)
    zeros, ones = np.zeros(512, np.float32), np.ones(512, np.float32)
    painter = StandIn(draws, whom, Conditions(zeros, ones, labels, NAMES, zeros))
    counts = Counts(fid=60, kid=60, kid_seeds=2, agreement=90)
    return Gallery(painter, photographs_of(images, painter), heard or calls(), cache, counts)


def test_pictures_of_the_call_agree_with_it_and_swapped_ones_with_the_donor(
    images: ImageSet, tmp_path: Path
) -> None:
    """Whoever's label stood beside; the ceiling is what the encoder and the probe get right."""
    report = faithfulness(gallery(images, tmp_path, heard=calls(n_wrong=9)))
    assert report["probe_accuracy"] == 1.0
    assert report["agreement_ceiling"] == report["encoder_accuracy"] == 0.5
    assert report["agreement"] == report["swapped_agreement_with_donor"] == 1.0
    assert report["swapped_agreement_with_own_label"] == 0.0
    assert report["agreement_interval"] == [1.0, 1.0]


def test_pictures_of_no_call_agree_by_chance_alone(images: ImageSet, tmp_path: Path) -> None:
    """A third of three species, with the call and with the donor."""
    report = faithfulness(gallery(images, tmp_path, whom=anyone))
    assert report["chance"] == pytest.approx(1 / 3, abs=1e-4)
    for name in ("agreement", "swapped_agreement_with_donor", "swapped_agreement_with_own_label"):
        assert report[name] == pytest.approx(1 / 3, abs=0.15)
    low, high = report["agreement_interval"]
    assert low < report["agreement"] < high
    assert report["seed_distance"] > report["call_distance"] == 0.0


def test_of_many_calls_any_are_asked_not_the_first(images: ImageSet, tmp_path: Path) -> None:
    """Tables are sorted by species: who always paints the last one is right in a third."""
    many = calls(n_each=40)
    report = faithfulness(gallery(images, tmp_path, whom=lambda species, seed: 2, heard=many))
    assert report["n_agreement"] < len(many.species)
    assert report["agreement"] == pytest.approx(1 / 3, abs=0.12)


def test_the_line_label_is_told_the_callers_species(images: ImageSet, tmp_path: Path) -> None:
    """Its vector instead of the call; swapped, the donor's."""
    deaf = replace(calls(), by_label=True, embedding=np.zeros((18, 512), np.float32))
    report = faithfulness(gallery(images, tmp_path, heard=deaf))
    assert report["agreement"] == report["swapped_agreement_with_donor"] == 1.0


@pytest.mark.parametrize("mirrors", [False, True])
def test_copies_are_told_as_memorised(images: ImageSet, tmp_path: Path, mirrors: bool) -> None:
    """Of training photographs, as they are and mirrored; photographs kept aside are no copies."""
    judged = gallery(images, tmp_path)
    train = judged.photographs.pixels(judged.photographs.rows(TRAIN))
    copies = np.ascontiguousarray(train[:, :, ::-1] if mirrors else train)
    seen = features.inception_features(copies, tmp_path)
    assert memory_report(judged, seen) == {"memorised": 1.0}


def test_new_pictures_are_not(images: ImageSet, tmp_path: Path) -> None:
    """Drawn as the photographs were, they lie as far from them as those kept aside."""
    new = np.stack([fresh(NAMES[i % 3], i) for i in range(100)])
    seen = features.inception_features(new, tmp_path)
    assert memory_report(gallery(images, tmp_path), seen)["memorised"] <= 0.05


def test_pictures_like_photographs_are_near_the_floor_and_noise_is_far(
    images: ImageSet, tmp_path: Path
) -> None:
    """By every distance; what it cost is counted."""
    good, bad = (likeness(gallery(images, tmp_path, draws)) for draws in (fresh, noise))
    assert good["n_fid"] == 60
    assert 0 < good["fid"] < 1.5 * good["fid_floor"] < 0.1 * bad["fid"]
    assert abs(good["kid"] - good["kid_floor"]) < 0.05 * bad["kid"]
    assert min(good["precision"], good["recall"]) > 0.8
    assert bad["precision"] == bad["recall"] == bad["memorised"] == 0.0
    assert good["network_calls"] == 1.0
    assert len(good["kid_by_seed"]) == 2


def test_one_good_picture_again_and_again_is_seen_as_collapse(
    images: ImageSet, tmp_path: Path
) -> None:
    """Each is a good one, and they are none of the others."""
    report = likeness(gallery(images, tmp_path, lambda name, seed: fresh(name, 0)))
    assert report["precision"] > 0.8
    assert report["recall"] < 0.5


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that paints each tone in its colour, tones, and photographs like that."""
    top = tmp_path_factory.mktemp("coloured")
    make_painting_bundle(top / "bundle")
    tones = [(name, i) for name in TONES for i in range(3)]
    for name, i in tones:
        write_audio(top / "tones" / f"{name}{i}.wav", {TONES[name]: [(0, 2)]}, seconds=2.0)
    rows = [{"file": f"{name}{i}.wav", "scientific_name": name, "fold": i % 2} for name, i in tones]
    write_table(top / "tones" / "recordings.csv", rows)
    photographs = photograph_rows(TONES, n_train=20, n_val=6)
    write_table(top / "photographs" / "images.csv", photographs)
    chance = np.random.default_rng(0)
    for row in photographs:
        place = top / "photographs" / row["file"]
        place.parent.mkdir(parents=True, exist_ok=True)
        grains = chance.normal(COLOURS[[*TONES].index(row["scientific_name"])], 0.1, (64, 64, 3))
        Image.fromarray(((grains.clip(-1, 1) + 1) * 127.5).astype(np.uint8)).save(place)
    return top


def judge(top: Path, *more: str) -> int:
    """Run the command line on a bundle."""
    arguments = ["--bundle", top / "bundle", "--data", top / "tones", "--cache", top / "cache"]
    arguments += ["--images", top / "photographs", "--share", "0.01"]
    return evaluate.main(["generator", *map(str, arguments), *more])


def test_the_command_reports_on_any_bundle_and_folders(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every promised number at the top level; a page with the pictures in it."""
    out = tmp_path / "new" / "report.json"
    page = tmp_path / "page.html"
    assert judge(coloured, "--fold", "0", "--json", str(out), "--html", str(page)) == 0
    report = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert set(PROMISED) <= set(report)
    assert report["n_calls"] == 4
    assert report["agreement"] == report["swapped_agreement_with_donor"] == 1.0
    assert report["swapped_agreement_with_own_label"] == 0.0
    assert report["network_calls"] == 9.0  # six, three of them guided
    assert report["ms_per_image"] > 0
    assert page.read_text().count("<img") == 2 * 2 * 6
    told = (ROOT / "docs" / "evaluation.md").read_text()
    assert not [key for key in report if f"`{key}`" not in told]
    assert report["caution"] is None
    assert "agreement_ceiling: 1.0" in capsys.readouterr().out


def test_a_terminal_that_cannot_show_it_costs_no_report(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody watches a judgement of hours; its output may be a pipe that is closed."""
    gone, theirs = os.pipe()
    os.close(gone)
    out = tmp_path / "report.json"
    with contextlib.suppress(BrokenPipeError), os.fdopen(theirs, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert judge(coloured, "--json", str(out)) == 2
    assert json.loads(out.read_text())["agreement"] == 1.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--share", "0"], "--share is 0; must be above 0 and at most 1"),
        (["--share", "nan"], "--share is nan; must be above 0"),
        (["--fold", "7"], "fold 7 holds no recording: leave --fold out"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--images", "nowhere"], "nowhere has no images.csv"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--steps", "4"], "--steps does nothing with --bundle: leave it out"),
        (["--only-kid", "100"], "--only-kid does nothing with --bundle"),
    ],
)
def test_a_mistake_about_a_bundle_is_one_line(
    coloured: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    """Exit code 2, and nothing was painted."""
    assert judge(coloured, *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert error.startswith("trainer.evaluate: ")


def test_photographs_of_none_that_is_painted_are_refused(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which are, is said."""
    others = write_photographs(tmp_path, photograph_rows(["Turdus merula"]))
    assert judge(coloured, "--images", str(others)) == 2
    said = "no photograph of a species that the bundle paints: Fringilla coelebs, Parus major"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("n_train", "n_val", "said"),
    [
        (1, 0, "holds 1 photographs of painted species; a distance needs at least 2"),
        (9, 1, "holds 10 photographs of painted species; a distance needs at least 2"),
        (4, 4, "all photographs to learn from are of Parus major: telling species apart needs two"),
    ],
)
def test_too_few_photographs_are_refused(
    coloured: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    n_train: int,
    n_val: int,
    said: str,
) -> None:
    """Before anything is painted."""
    write_photographs(tmp_path, photograph_rows(["Parus major"], n_train, n_val))
    assert judge(coloured, "--images", str(tmp_path)) == 2
    assert said in capsys.readouterr().err


def test_calls_of_one_species_are_refused(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to swap them with."""
    write_audio(tmp_path / "a.wav", {TONES["Parus major"]: [(0, 2)]}, seconds=2.0)
    write_table(tmp_path / "recordings.csv", [{"file": "a.wav", "scientific_name": "Parus major"}])
    assert judge(coloured, "--data", str(tmp_path)) == 2
    assert "all calls are of Parus major" in capsys.readouterr().err


def test_recordings_that_none_can_hear_are_told_with_the_reason(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the first of them."""
    (tmp_path / "a.wav").write_bytes(b"no audio")
    write_table(tmp_path / "recordings.csv", [{"file": "a.wav", "scientific_name": "Parus major"}])
    assert judge(coloured, "--data", str(tmp_path)) == 2
    assert "1 were skipped, the first: a.wav" in capsys.readouterr().err


def test_a_folder_without_split_is_judged_by_halves(
    coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is memorised cannot be said there."""
    rows = photograph_rows(["Parus major", "Turdus merula"], 12, 0)
    # Two birds of the bundle's names in two colours; which is which is no matter here.
    folder = write_photographs(tmp_path / "photographs", rows)
    table = (folder / "images.csv").read_text().replace("Turdus merula,", "Fringilla coelebs,")
    (folder / "images.csv").write_text(table)
    out = tmp_path / "report.json"
    assert judge(coloured, "--images", str(folder), "--json", str(out)) == 0
    report = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert report["memorised"] is None
    assert report["n_fid"] == 12
    assert report["probe_accuracy"] == 1.0
