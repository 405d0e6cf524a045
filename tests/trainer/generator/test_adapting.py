"""A generator learns another encoder's words for the same calls; what it paints stays the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from fieldstation.bundle import Bundle, BundleError, load_bundle  # noqa: E402
from fieldstation.generation.conditions import load_conditions  # noqa: E402
from fieldstation.generation.denoiser import OnnxDenoiser, check_generator  # noqa: E402
from fieldstation.generation.painter import Painter, check_picture  # noqa: E402
from tests.onnx_models import make_painting_bundle, make_tone_bundle  # noqa: E402
from tests.trainer.generator.tiny import HEARD, calls  # noqa: E402
from trainer.data.recordings import DataError  # noqa: E402
from trainer.generator.adapting import (  # noqa: E402
    Adapted,
    adapt,
    bundle_adapted,
    known_to,
    main,
)
from trainer.generator.bundling import Packaging  # noqa: E402
from trainer.generator.embeddings import Calls  # noqa: E402

PITCHES = dict(zip(HEARD, (1_000.0, 3_000.0), strict=True))


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    """Return a bundle that paints tones."""
    return make_painting_bundle(tmp_path / "old", PITCHES)


def told_otherwise(of: Calls, noise: float = 0.0) -> Calls:
    """Return the same calls as another encoder puts them: turned, stretched and moved."""
    chance = np.random.default_rng(1)
    turn, _ = np.linalg.qr(chance.standard_normal((512, 512)))
    values = of.embedding @ (turn * chance.uniform(0.5, 2.0, 512)) + 3.0
    values += noise * chance.standard_normal(values.shape)
    return replace(of, embedding=values.astype(np.float32))


def adapted(old: Bundle, noise: float = 0.0) -> tuple[Adapted, Calls, Calls]:
    """Return an adaptation to calls of two species, and the calls as both encoders put them."""
    before = calls(n_per_species=40)
    after = told_otherwise(before, noise)
    return adapt(old, before, after), before, after


def test_a_linear_change_of_words_is_undone(old: Bundle) -> None:
    """The condition of a call is what it was, but for what the ridge takes; noise costs."""
    found, before, after = adapted(old)
    wanted = load_conditions(old).of_embeddings(before.embedding)
    got = found.conditions.of_embeddings(after.embedding)
    assert np.abs(got - wanted).mean() < 0.3 * np.abs(wanted).mean()
    assert found.explained > 0.6
    assert adapted(old, noise=3.0)[0].explained < found.explained


def test_an_adapted_bundle_keeps_its_denoiser_and_its_promises(old: Bundle, tmp_path: Path) -> None:
    """It is of the new encoder, says where it comes from, and its golden outputs come again."""
    ear = make_tone_bundle(tmp_path / "ear", {name: 2 * hz for name, hz in PITCHES.items()})
    found, before, after = adapted(old)
    new = bundle_adapted(old, ear, found, tmp_path / "new")
    assert new.denoiser_path.read_bytes() == old.denoiser_path.read_bytes()
    read = load_bundle(tmp_path / "new")
    assert read.generator is not None
    assert old.generator is not None
    assert read.generator.encoder_id == ear.encoder_id != old.encoder_id
    assert read.generator.generator_id != old.generator.generator_id
    assert read.generator.trained_on["adapted_from_encoder"] == old.encoder_id
    denoiser = OnnxDenoiser(read)
    assert check_generator(denoiser, read) < 1e-6
    painter, former = Painter(read, denoiser), Painter(old, OnnxDenoiser(old))
    assert check_picture(painter, read) > 45
    chosen, seeds = [0, len(before.species) - 1], [1, 2]
    pictures = painter.paint(painter.conditions.of_embeddings(after.embedding[chosen]), seeds)
    wanted = former.paint(former.conditions.of_embeddings(before.embedding[chosen]), seeds)
    assert np.abs(pictures.astype(float) - wanted).mean() < 16


def test_how_it_paints_may_be_chosen_anew(old: Bundle, tmp_path: Path) -> None:
    """The golden picture is then that way's; what is not chosen stays."""
    found, _, _ = adapted(old)
    how = Packaging(solver="ancestral", guidance_scale=0.0)
    card = bundle_adapted(old, old, found, tmp_path / "new", how).generator
    assert card is not None
    assert old.generator is not None
    assert (card.solver, card.guidance_scale) == ("ancestral", 0.0)
    assert card.n_steps == old.generator.n_steps
    read = load_bundle(tmp_path / "new")
    assert check_picture(Painter(read, OnnxDenoiser(read)), read) > 45


def test_a_map_that_maps_is_mapped_again(old: Bundle, tmp_path: Path) -> None:
    """Adapted twice, it still undoes both changes."""
    ear = make_tone_bundle(tmp_path / "ear", PITCHES)
    found, _, after = adapted(old)
    once = bundle_adapted(old, ear, found, tmp_path / "once")
    twice = adapt(once, after, told_otherwise(after))
    wanted = found.conditions.of_embeddings(after.embedding)
    got = twice.conditions.of_embeddings(told_otherwise(after).embedding)
    assert np.abs(got - wanted).mean() < 0.3 * np.abs(wanted).mean()


def test_other_windows_are_no_ground_for_a_map(old: Bundle) -> None:
    """Nor is a single recording."""
    before = calls()
    with pytest.raises(DataError, match="other windows than the bundle's own"):
        adapt(old, before, before.rows(np.arange(4)))
    one = before.rows(np.flatnonzero(before.recording == 0))
    with pytest.raises(DataError, match="too few recordings"):
        adapt(old, one, one)


def test_a_bundle_that_does_not_paint_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, before anything is heard."""
    ear = make_tone_bundle(tmp_path / "ear", PITCHES)
    asked = ["--bundle", str(ear.path), "--encoder", str(ear.path), "--data", str(tmp_path)]
    assert main([*asked, "-o", str(tmp_path / "new")]) == 2
    assert "ear does not paint" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--guidance", "-1"]])
def test_a_way_to_paint_that_cannot_be_meant_is_told(
    wrong: list[str], old: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is heard."""
    asked = ["--bundle", str(old.path), "--encoder", str(old.path), "--data", str(tmp_path)]
    assert main([*asked, "-o", str(tmp_path / "new"), *wrong]) == 2
    told = capsys.readouterr().err
    assert f"is {wrong[1]}" in told
    assert told.count("\n") == 1


def test_a_bundle_is_not_adapted_into_itself(
    old: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other encoder would be written over its own, and then nothing be painted any more."""
    ear = make_tone_bundle(tmp_path / "ear", {name: 2 * hz for name, hz in PITCHES.items()})
    before = {path.name: path.read_bytes() for path in old.path.iterdir()}
    asked = ["--bundle", str(old.path), "--encoder", str(ear.path), "--data", str(tmp_path)]
    assert main([*asked, "-o", f"{old.path}/../old"]) == 2
    told = capsys.readouterr().err
    assert "which would be lost: name another -o" in told
    assert told.count("\n") == 1
    with pytest.raises(BundleError, match="name another -o"):
        bundle_adapted(old, ear, adapted(old)[0], old.path)
    assert {path.name: path.read_bytes() for path in old.path.iterdir()} == before


def test_weights_do_not_travel_without_their_notice(old: Bundle, tmp_path: Path) -> None:
    """Said before a file is written."""
    (old.path / "NOTICE.generator").unlink()
    with pytest.raises(BundleError, match=r"NOTICE\.generator cannot be read"):
        bundle_adapted(old, old, adapted(old)[0], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_fold_that_was_left_out_is_left_out(old: Bundle) -> None:
    """By the generator or by the encoder: what the map knew could judge neither."""
    assert old.generator is not None
    everything = calls()
    painter = replace(old, generator=replace(old.generator, trained_on={"fold": 0}))
    ear = replace(old, trained_on={"fold": 1})
    assert known_to(old, replace(old, trained_on={"fold": None}), everything) is everything
    kept = known_to(painter, ear, everything)
    assert {kept.recordings[i].fold for i in kept.recording} == {2}


def test_a_map_that_is_worse_than_none_is_refused(old: Bundle) -> None:
    """Of few recordings, or of encoders that hear nothing alike: its pictures would be chance."""
    before = calls(n_per_species=20)
    chance = np.random.default_rng(2)
    nothing = chance.standard_normal(before.embedding.shape).astype(np.float32)
    with pytest.raises(DataError, match=r"explains -\d.+: bring more recordings"):
        adapt(old, before, replace(before, embedding=nothing))
