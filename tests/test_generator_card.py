"""A bundle's generator survives writing and reading; what does not belong to it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from fieldstation.bundle import (
    Bundle,
    BundleError,
    Outputs,
    load_bundle,
    save_bundle,
    save_generator,
)
from fieldstation.generator_card import GeneratorCard
from tests.test_bundle import GOLDEN, make

FILES = ("denoiser.onnx", "conditions.npz", "generator_golden.npz")


def card(encoder_id: str) -> GeneratorCard:
    """Return a card with every field set."""
    return GeneratorCard(
        encoder_id=encoder_id,
        paints=("Fringilla coelebs", "Parus major"),
        image_size=32,
        profile="paper",
        size="base",
        sigma_min=0.01,
        sigma_max=157.0,
        solver="ancestral",
        n_steps=50,
        guidance_scale=1.5,
        guidance_interval=(0.3, 5.0),
        licence="CC BY-NC 4.0",
        trained_on={"photographs": 1_500},
        metrics={"kid": 0.02},
        tolerance={"CPUExecutionProvider": 0.01, "CUDAExecutionProvider": 0.02},
    )


def add_files(bundle: Bundle) -> None:
    for name in FILES:
        (bundle.path / name).write_bytes(name.encode())


def make_painting(path: Path) -> Bundle:
    """Write a bundle with a generator, none of whose files could run."""
    bundle = replace(make(path), outputs=Outputs())
    bundle = save_bundle(bundle, GOLDEN, "Recordings.")
    add_files(bundle)
    return save_generator(bundle, card(bundle.encoder_id), "Whose photographs it saw.")


def change_card(path: Path, **entries: Any) -> None:
    """Change entries of the object `generator`; None removes one."""
    raw = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    changed = raw["generator"] | entries
    raw["generator"] = {key: value for key, value in changed.items() if value is not None}
    (path / "bundle.json").write_text(json.dumps(raw), encoding="utf-8")


def assert_refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises(BundleError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_a_generator_survives_writing_and_reading(tmp_path: Path) -> None:
    """Every field comes back as it was, the id from the files."""
    bundle = make_painting(tmp_path / "mine")
    read = load_bundle(tmp_path / "mine").generator
    assert read is not None
    expected = replace(card(bundle.encoder_id), generator_id=read.generator_id)
    for field in fields(GeneratorCard):
        assert getattr(read, field.name) == getattr(expected, field.name), field.name
    assert bundle.generator_id == read.generator_id
    assert len(read.generator_id) == 16
    assert (tmp_path / "mine/NOTICE.generator").read_text() == "Whose photographs it saw.\n"
    assert (tmp_path / "mine/NOTICE").read_text() == "Recordings.\n"


def test_a_bundle_may_do_without_a_generator(tmp_path: Path) -> None:
    """A description without the object is one that does not paint."""
    path = make(tmp_path / "deaf to pictures").path
    raw = json.loads((path / "bundle.json").read_text())
    del raw["generator"], raw["generator_id"]
    (path / "bundle.json").write_text(json.dumps(raw))
    assert (load_bundle(path).generator, load_bundle(path).generator_id) == (None, None)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """Each of the three files must be there, when written and when read."""
    bundle = make_painting(tmp_path / "mine")
    (bundle.path / name).unlink()
    assert_refused(lambda: load_bundle(bundle.path), f"{name} is missing")
    assert_refused(lambda: save_generator(bundle, card(bundle.encoder_id), ""), "is missing")


@pytest.mark.parametrize("name", FILES[:2])
def test_other_bytes_are_another_generator(tmp_path: Path, name: str) -> None:
    """Weights or conditions that were exchanged are noticed, and have another id."""
    bundle = make_painting(tmp_path / "mine")
    (bundle.path / name).write_bytes(b"exchanged")
    assert_refused(lambda: load_bundle(bundle.path), "a file is damaged or was exchanged")
    written = json.loads((bundle.path / "bundle.json").read_text())["generator_id"]
    again = save_generator(replace(bundle, generator=None), card(bundle.encoder_id), "")
    assert again.generator_id != written


def test_a_generator_of_another_encoder_is_refused(tmp_path: Path) -> None:
    """Embeddings of one encoder mean nothing to a generator that was made for another."""
    bundle = make_painting(tmp_path / "mine")
    before = (bundle.path / "bundle.json").read_bytes()
    message = rf"made for encoder 0{{16}}; the bundle's is {bundle.encoder_id}"
    assert_refused(lambda: save_generator(bundle, card("0" * 16), ""), message)
    assert (bundle.path / "bundle.json").read_bytes() == before
    change_card(bundle.path, encoder_id="0" * 16)
    assert_refused(lambda: load_bundle(bundle.path), message)


def test_an_encoder_that_changes_under_its_generator_is_refused(tmp_path: Path) -> None:
    """A bundle that is saved again with another encoder must not keep the old generator."""
    bundle = make_painting(tmp_path / "mine")
    before = (bundle.path / "bundle.json").read_bytes()
    bundle.encoder_path.write_bytes(b"trained again")
    assert_refused(lambda: save_bundle(bundle, GOLDEN, ""), "train a generator for it")
    assert (bundle.path / "bundle.json").read_bytes() == before


def test_a_foreign_bundle_without_embedding_takes_any_generator(tmp_path: Path) -> None:
    """It paints from the species' own vectors, which no encoder made."""
    bundle = make(tmp_path / "foreign")
    assert bundle.outputs.embedding is None
    add_files(bundle)
    assert save_generator(bundle, card("0" * 16), "").generator_id


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"paints": None}, "lacks 'paints' in generator"),
        ({"generator_id": "0" * 16}, r"hash to \w{16}; bundle.json says 0{16}"),
        ({"paints": []}, "at least one"),
        ({"paints": ["a", "a"]}, "once each"),
        ({"paints": 5}, "not iterable"),
        ({"image_size": 4096}, "image_size is 4096; 8 to 512"),
        ({"sigma_min": 0}, "must lie between 0 and sigma_max"),
        ({"sigma_max": float("nan")}, "must lie between"),
        ({"solver": "euler"}, "solver is 'euler'; one of dpmpp_2m, heun, ancestral"),
        ({"n_steps": 0}, "n_steps is 0; 1 to 1000"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; 0 to 20"),
        ({"guidance_interval": [5, 0.3]}, "low before high"),
        ({"guidance_interval": [1]}, "generator: not enough values"),
        ({"tolerance": {"CPUExecutionProvider": 0}}, "must be above 0"),
        ({"tolerance": 5}, "generator: "),
    ],
)
def test_a_wrong_field_is_named_with_its_value(
    tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    """Each entry of the card that cannot be used is refused."""
    path = make_painting(tmp_path / "mine").path
    change_card(path, **entries)
    assert_refused(lambda: load_bundle(path), message)


@pytest.mark.parametrize("generator", [[], "one", 5])
def test_a_generator_that_is_no_object_is_refused(tmp_path: Path, generator: object) -> None:
    """A card is an object."""
    path = make_painting(tmp_path / "mine").path
    raw = json.loads((path / "bundle.json").read_text()) | {"generator": generator}
    (path / "bundle.json").write_text(json.dumps(raw))
    assert_refused(lambda: load_bundle(path), "generator: ")


def test_the_two_places_of_the_id_must_agree(tmp_path: Path) -> None:
    """A description that was half changed is not guessed at."""
    path = make_painting(tmp_path / "mine").path
    raw = json.loads((path / "bundle.json").read_text()) | {"generator_id": "0" * 16}
    (path / "bundle.json").write_text(json.dumps(raw))
    assert_refused(lambda: load_bundle(path), "says generator_id '0{16}', its generator")
