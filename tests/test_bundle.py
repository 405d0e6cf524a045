"""A bundle survives writing and reading, and whatever is wrong with one is said in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.bundle import (
    Bundle,
    BundleError,
    Golden,
    Outputs,
    find_bundle,
    load_bundle,
    load_golden,
    save_bundle,
)
from fieldstation.records import Label, LabelKind

LABELS = (
    Label("Fringilla coelebs", "Chaffinch"),
    Label("Parus major", "Kohlmeise – größer"),
    Label("no bird", "no bird", LabelKind.NO_BIRD),
)
GOLDEN = Golden(np.zeros((2, 22_050), np.float32), np.ones((2, 3), np.float32))


def described(path: Path) -> Bundle:
    """Return a description of three labels with every field set."""
    return Bundle(
        path=path,
        name=path.name,
        encoder_id="",
        labels=LABELS,
        thresholds=(0.5, 0.25, 1.0),
        sample_rate=22_050,
        samples_per_window=22_050,
        outputs=Outputs("scores", None, "picture", "by_frame"),
        input="audio",
        activation="sigmoid",
        temperature=1.5,
        offsets=(0.0, -0.5, 0.25),
        licence="CC BY-NC-SA 4.0",
        trained_on={"tiers": ["A"]},
        metrics={"accuracy": 0.4},
        tolerance={"CPUExecutionProvider": 0.01, "CUDAExecutionProvider": 0.02},
    )


def make(path: Path, content: bytes = b"any bytes: nothing is run here") -> Bundle:
    """Write a bundle."""
    path.mkdir(parents=True)
    (path / "encoder.onnx").write_bytes(content)
    return save_bundle(described(path), GOLDEN, "Whose recordings it was trained on.")


def change(path: Path, **entries: Any) -> None:
    """Change entries of bundle.json; None removes one."""
    raw = json.loads((path / "bundle.json").read_text(encoding="utf-8")) | entries
    raw = {key: value for key, value in raw.items() if value is not None}
    (path / "bundle.json").write_text(json.dumps(raw), encoding="utf-8")


def assert_refused(act: Callable[[], object], message: str) -> None:
    """Check that a BundleError of one line matches."""
    with pytest.raises(BundleError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_a_bundle_survives_writing_and_reading(tmp_path: Path) -> None:
    """Every field comes back as it was, the encoder's id from its bytes."""
    written = make(tmp_path / "mine")
    read = load_bundle(tmp_path / "mine")
    expected = replace(described(tmp_path / "mine"), encoder_id=written.encoder_id)
    for field in fields(Bundle):
        assert getattr(read, field.name) == getattr(expected, field.name), field.name
    assert len(read.encoder_id) == 16
    assert (tmp_path / "mine/NOTICE").read_text() == "Whose recordings it was trained on.\n"
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_golden_arrays_survive(tmp_path: Path) -> None:
    """The golden input and logits come back bit for bit."""
    golden = load_golden(make(tmp_path / "mine"))
    np.testing.assert_array_equal(golden.waveform, GOLDEN.waveform)
    np.testing.assert_array_equal(golden.logits, GOLDEN.logits)


def test_derived_values_follow_from_the_fields(tmp_path: Path) -> None:
    """Window length in seconds and the labels that can become events."""
    bundle = make(tmp_path / "mine")
    assert bundle.window_s == 1.0
    assert bundle.species == LABELS[:2]


def test_other_bytes_are_another_encoder(tmp_path: Path) -> None:
    """The encoder's id is that of its content, wherever the bundle lies."""
    one, same = make(tmp_path / "one"), make(tmp_path / "same")
    other = make(tmp_path / "other", b"other bytes")
    assert one.encoder_id == same.encoder_id != other.encoder_id


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"schema": 2}, "has schema 2; this fieldstation reads 1"),
        ({"labels": None}, "lacks 'labels'"),
        ({"name": None}, "lacks 'name'"),
        ({"labels": []}, "at least one; there are 0"),
        ({"labels": ["Chaffinch"] * 3}, "is damaged"),
        ({"labels": [{"scientific_name": "a", "common_name": "a"}] * 3}, "named once each"),
        (
            {"labels": [{"scientific_name": "a", "common_name": "a", "kind": "frog"}]},
            "'frog' is not a valid LabelKind",
        ),
        ({"thresholds": [0.5]}, "1 thresholds for 3 labels"),
        ({"thresholds": [0.5, 0.5, 1.5]}, r"must lie in 0..1; 1 do not: \[1.5\]"),
        ({"thresholds": [0.5, 0.5, float("nan")]}, "thresholds holds a value that is not finite"),
        ({"thresholds": "half"}, "is damaged"),
        ({"activation": "none", "temperature": 2.0}, "activation is none, so temperature must be"),
        ({"offsets": [1.0]}, "1 offsets for 3 labels"),
        ({"offsets": [1.0, 1.0, float("inf")]}, "offsets holds a value that is not finite"),
        ({"sample_rate": 0}, "sample_rate is 0; 1000 to 384000 Hz"),
        ({"sample_rate": "fast"}, "is damaged"),
        ({"samples_per_window": 100}, "samples_per_window is 100; 0.1 to 60 s"),
        ({"temperature": 0}, "temperature is 0.0; must be above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"activation": "relu"}, "activation is 'relu'; one of"),
        ({"outputs": {"logit": "x"}}, "is damaged: .*logit"),
        ({"outputs": ["logits"]}, "is damaged"),
        ({"outputs": {"logits": 5}}, "outputs.logits is 5; must be a name"),
        ({"outputs": {"logits": ""}}, "outputs.logits is ''; must be a name"),
        ({"outputs": {"mel": 5}}, "outputs.mel is 5; must be a name"),
        ({"outputs": {"frame_logits": 5}}, "outputs.frame_logits is 5; must be a name"),
        ({"tolerance": {"CPUExecutionProvider": "small"}}, "is damaged: .*'small'"),
        ({"tolerance": {"CPUExecutionProvider": float("nan")}}, "tolerance .* must be above 0"),
        ({"tolerance": 5}, "is damaged"),
        ({"encoder_id": "0" * 16}, r"hashes to \w{16}; bundle.json says 0{16}"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(
    tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    """Each field of bundle.json that cannot be used is refused."""
    path = make(tmp_path / "mine").path
    change(path, **entries)
    assert_refused(lambda: load_bundle(path), message)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1'])
def test_a_damaged_description_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no JSON object is called damaged."""
    path = make(tmp_path / "mine").path
    (path / "bundle.json").write_bytes(content)
    assert_refused(lambda: load_bundle(path), "bundle.json is damaged")


def test_a_folder_without_description_is_no_bundle(tmp_path: Path) -> None:
    """An empty folder and a missing one are refused by path."""
    assert_refused(lambda: load_bundle(tmp_path), "is no bundle: No such file")
    assert_refused(lambda: load_bundle(tmp_path / "gone"), "gone is no bundle: No such file")


def test_an_encoder_that_is_missing_or_unreadable_is_refused(tmp_path: Path) -> None:
    """The graph must be there, be readable, and be the one that was described."""
    path = make(tmp_path / "mine").path
    (path / "encoder.onnx").write_bytes(b"exchanged")
    assert_refused(lambda: load_bundle(path), "was exchanged")
    (path / "encoder.onnx").unlink()
    assert_refused(lambda: load_bundle(path), "encoder.onnx is missing")
    (path / "encoder.onnx").symlink_to("/proc/self/mem")  # a file whose reading fails
    assert_refused(lambda: load_bundle(path), "encoder.onnx cannot be read")


def savez(path: Path, **arrays: Any) -> None:
    """Write golden.npz."""
    np.savez(path / "golden.npz", **arrays)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "golden.npz").unlink(), "is missing or damaged"),
        (lambda path: (path / "golden.npz").write_bytes(b""), "is missing or damaged"),
        (lambda path: (path / "golden.npz").write_bytes(b"garbage"), "is missing or damaged"),
        (lambda path: savez(path, waveform=GOLDEN.waveform), "is missing or damaged: .*logits"),
        (
            lambda path: savez(path, waveform=GOLDEN.waveform[:, :9], logits=GOLDEN.logits),
            r"holds \(2, 9\) -> \(2, 3\); the bundle says \[n, 22050\] -> \[n, 3\]",
        ),
        (
            lambda path: savez(path, waveform=GOLDEN.waveform, logits=GOLDEN.logits[:1]),
            r"holds \(2, 22050\) -> \(1, 3\)",
        ),
        (
            lambda path: savez(path, waveform=np.float32(0), logits=GOLDEN.logits),
            r"holds \(\) -> \(2, 3\)",
        ),
        (
            lambda path: savez(path, waveform=GOLDEN.waveform[:0], logits=GOLDEN.logits[:0]),
            r"holds \(0, 22050\)",
        ),
        (
            lambda path: savez(path, waveform=GOLDEN.waveform * np.nan, logits=GOLDEN.logits),
            "holds values that are not finite",
        ),
        (
            lambda path: savez(path, waveform=np.array([["a"]]), logits=GOLDEN.logits),
            "is missing or damaged",
        ),
    ],
)
def test_a_damaged_golden_file_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """A golden check that cannot be made is an error, never a check that passes."""
    bundle = make(tmp_path / "mine")
    damage(bundle.path)
    assert_refused(lambda: load_golden(bundle), message)


@given(st.data())
def test_a_golden_file_with_any_byte_changed_or_cut_off_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a bad disk does to golden.npz, it is read right or refused."""
    path = tmp_path_factory.getbasetemp() / "golden"
    if not path.exists():
        make(path)
    bundle = load_bundle(path)
    content = bytearray((path / "golden.npz").read_bytes())
    broken = bytearray(content)
    where = data.draw(st.integers(0, len(content) - 1))
    broken[where] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del broken[where:]
    (path / "golden.npz").write_bytes(broken)
    try:
        golden = load_golden(bundle)
    except BundleError as error:
        refused = str(error)
    else:
        # zip holds what is not checked, such as a member's time: then nothing was lost
        refused = "golden.npz" if np.array_equal(golden.logits, GOLDEN.logits) else "read wrong"
    finally:
        (path / "golden.npz").write_bytes(content)
    assert "golden.npz" in refused


def test_a_bundle_is_found_by_name_in_the_state_before_the_package(tmp_path: Path) -> None:
    """A name means the state's bundle first; a path means itself."""
    mine = make(tmp_path / "bundles" / "mine").path
    assert find_bundle("mine", tmp_path) == mine
    assert find_bundle(str(mine)) == mine


def test_a_bundle_that_is_nowhere_is_refused_with_the_places(tmp_path: Path) -> None:
    """The error says where was looked and what ships."""
    assert_refused(lambda: find_bundle("gone", tmp_path), r"is 'gone'; no bundle.json in .*gone")
    assert_refused(lambda: find_bundle(str(tmp_path / "gone")), "name a folder or one of")
