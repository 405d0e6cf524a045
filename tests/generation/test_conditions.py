"""A call becomes a condition, or the reason why it cannot is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fieldstation.bundle import Bundle, BundleError, hash_generator
from fieldstation.generation.conditions import (
    Call,
    Conditions,
    Unpaintable,
    condition_of,
    load_conditions,
    save_conditions,
)
from tests.onnx_models import make_painting_bundle

CONDITIONS = Conditions(
    mean=np.full(512, 2.0, np.float32),
    scale=np.full(512, 0.5, np.float32),
    labels=np.arange(2 * 512, dtype=np.float32).reshape(2, 512),
    label_names=("Fringilla coelebs", "Parus major"),
    null=np.ones(512, np.float32),
)


@pytest.fixture
def own(tmp_path: Path) -> Bundle:
    """Return a painting bundle that the test may damage."""
    return make_painting_bundle(tmp_path / "own", paints=["Fringilla coelebs"], image_size=8)


def test_conditions_survive_writing_and_reading(own: Bundle) -> None:
    """Every array comes back as it was; the same arrays are the same bytes."""
    save_conditions(own.path, CONDITIONS)
    written = (own.path / "conditions.npz").read_bytes()
    read = load_conditions(own)
    for name in ("mean", "scale", "labels", "null"):
        np.testing.assert_array_equal(getattr(read, name), getattr(CONDITIONS, name))
        assert getattr(read, name).dtype == np.float32
    assert read.label_names == CONDITIONS.label_names
    save_conditions(own.path, read)
    assert (own.path / "conditions.npz").read_bytes() == written


def test_an_embedding_is_standardised_and_clipped() -> None:
    """(e - mean) / scale, not beyond five standard deviations."""
    embeddings = np.full((2, 512), 2.75, np.float32)
    embeddings[1, :2] = (-1000, 1000)
    conditions = CONDITIONS.of_embeddings(embeddings)
    assert (conditions.dtype, conditions.shape) == (np.float32, (2, 512))
    assert conditions[0].tolist() == [1.5] * 512
    assert conditions[1, :3].tolist() == [-5.0, 5.0, 1.5]


def test_another_encoders_embedding_is_mapped(own: Bundle) -> None:
    """Standardised, then turned into what the generator was trained with; also when read again."""
    swapped = np.eye(512, dtype=np.float32)[::-1] / 2
    save_conditions(own.path, replace(CONDITIONS, mapping=swapped))
    embedding = np.full(512, 2.0, np.float32)
    embedding[:2] = (3.0, 1000.0)
    condition = load_conditions(own).of_embeddings(embedding)[0]
    assert condition[-2:].tolist() == [5.0, 1.0]
    assert not condition[:-2].any()


@given(hnp.arrays(np.float32, 512, elements=st.floats(-(2**100), 2**100, width=32)))
def test_no_embedding_leads_out_of_range(embedding: Any) -> None:
    """Whatever finite numbers come, a condition stays where the network has learnt."""
    assert np.abs(CONDITIONS.of_embeddings(embedding)).max() <= 5


def test_a_call_without_embedding_is_its_species(own: Bundle) -> None:
    """The learnt vector stands in."""
    assert own.generator is not None
    condition = condition_of(Call("Fringilla coelebs"), CONDITIONS, own.generator)
    np.testing.assert_array_equal(condition, CONDITIONS.labels[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call("Parus major"), r"Parus major is not painted .*: it paints Fringilla coelebs$"),
        (
            Call("Fringilla coelebs", np.zeros(512, np.float32), "0" * 16),
            r"is of encoder 0{16}; the generator \w{16} knows those of \w{16}",
        ),
        (Call("Fringilla coelebs", np.zeros(512, np.float32)), r"is of encoder \(not said\)"),
        (Call("Fringilla coelebs", np.zeros(128, np.float32), "its own"), r"is \[128\]"),
        (Call("Fringilla coelebs", np.full(512, np.nan, np.float32), "its own"), "not finite"),
    ],
)
def test_a_call_that_cannot_be_painted_is_refused_in_words(
    own: Bundle, call: Call, message: str
) -> None:
    """An unknown species, another encoder's embedding, one that is none."""
    card = own.generator
    assert card is not None
    if call.encoder_id == "its own":
        call = Call(call.scientific_name, call.embedding, card.encoder_id)
    with pytest.raises(Unpaintable, match=message):
        condition_of(call, CONDITIONS, card)


def savez(path: Path, **changes: Any) -> None:
    """Write conditions.npz with changes; None leaves an array out."""
    arrays = {name: getattr(CONDITIONS, name) for name in ("mean", "scale", "labels", "null")}
    arrays |= {"label_names": np.array(CONDITIONS.label_names), **changes}
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path / "conditions.npz", **kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "conditions.npz").unlink(), "is missing or damaged"),
        (lambda path: (path / "conditions.npz").write_bytes(b""), "is missing or damaged"),
        (lambda path: savez(path, null=None), "is missing or damaged: .*null"),
        (lambda path: savez(path, mean=np.zeros(5)), r"mean is \[5\]"),
        (lambda path: savez(path, labels=np.zeros((3, 512))), r"must be \[2, 512\]"),
        (lambda path: savez(path, label_names=np.array("one")), r"must be \[1, 512\]"),
        (lambda path: savez(path, null=np.full(512, np.inf)), "not finite"),
        (lambda path: savez(path, mapping=np.zeros((512, 5))), r"mapping is \[512, 5\]"),
        (lambda path: savez(path, scale=np.zeros(512)), "scale must be above 0"),
        (
            lambda path: savez(path, label_names=np.array(["a", "Parus major"])),
            "has no vector for Fringilla coelebs",
        ),
    ],
)
def test_a_damaged_file_is_refused(
    own: Bundle, damage: Callable[[Path], object], message: str
) -> None:
    """What is missing or of another shape is said in one line."""
    damage(own.path)
    with pytest.raises(BundleError, match=message) as error:
        load_conditions(own)
    assert "\n" not in str(error.value)


def test_conditions_are_part_of_the_generators_id(own: Bundle) -> None:
    """Other label vectors paint other pictures: they are another generator."""
    before = hash_generator(own.path)
    assert json.loads((own.path / "bundle.json").read_text())["generator_id"] == before
    save_conditions(own.path, CONDITIONS)
    assert hash_generator(own.path) != before
