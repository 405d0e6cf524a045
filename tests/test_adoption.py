"""A foreign graph becomes a bundle, complete or not at all."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fieldstation.adoption import Said, adopt, golden_waveform, name_for
from fieldstation.analysis.classifier import Classifier, check_golden
from fieldstation.bundle import BundleError, load_bundle
from fieldstation.records import Label, LabelKind, Window
from tests.onnx_models import TONES, tone, tone_encoder

LABELS = (
    Label("Fringilla coelebs", "Chaffinch"),
    Label("Parus major", "Great Tit"),
    Label("Noise", "Noise", LabelKind.NO_BIRD),
)
SAID = Said(LABELS, 48_000)


def foreign_model(
    folder: Path, batch: int | None = 1, extras: bool = False, frames: bool = False
) -> Path:
    """Write a graph as others export them: fixed batch, logits alone, no description."""
    path = folder / "foreign.onnx"
    onnx.save(tone_encoder(TONES, 48_000, 144_000, batch, extras, frames), path)
    return path


def probability_model(folder: Path) -> Path:
    """Write the same with its own sigmoid at the end."""
    model = onnx.load(foreign_model(folder))
    for node in model.graph.node:
        node.output[:] = ["raw" if name == "logits" else name for name in node.output]
    model.graph.node.append(helper.make_node("Sigmoid", ["raw"], ["logits"]))
    onnx.save(model, folder / "probabilities.onnx")
    return folder / "probabilities.onnx"


def picture_model(folder: Path) -> Path:
    """Write a graph that wants spectrograms."""
    ends = [
        helper.make_tensor_value_info("mel", TensorProto.FLOAT, [1, 1, 64, 100]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3]),
    ]
    weights = numpy_helper.from_array(np.zeros((6400, 3), np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["mel"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "pictures", ends[:1], ends[1:], [weights])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "mel.onnx")
    return folder / "mel.onnx"


def one_window(samples: np.ndarray) -> Window:
    """Return three seconds at 48 kHz as a window."""
    return Window(samples, started_at=0, offset=0, n_new=len(samples))


def test_a_foreign_graph_becomes_a_bundle_that_names_birds(tmp_path: Path) -> None:
    """Fixed batch of one, 48 kHz, sigmoid, no embedding: described, checked, and it hears."""
    bundle = adopt(foreign_model(tmp_path), tmp_path / "bundles", "foreign", SAID)
    assert bundle == load_bundle(tmp_path / "bundles" / "foreign")
    assert (bundle.samples_per_window, bundle.activation) == (144_000, "sigmoid")
    assert (bundle.outputs.embedding, bundle.species) == (None, LABELS[:2])
    classifier = Classifier(bundle)
    assert check_golden(classifier, bundle) < 1e-3
    (heard,) = classifier.predict([one_window(tone(4_000, 3, 48_000))])
    assert heard.probabilities[:2].round(2).tolist() == [0, 1]
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["foreign"]


def test_an_embedding_is_found_by_its_width(tmp_path: Path) -> None:
    """An output of 512 beside the logits is taken as the embedding, unless it is said not to be."""
    model = foreign_model(tmp_path, batch=None, extras=True)
    bundle = adopt(model, tmp_path / "bundles", "rich", SAID)
    assert (bundle.outputs.logits, bundle.outputs.embedding) == ("logits", "embedding")
    poor = adopt(model, tmp_path / "bundles", "poor", replace(SAID, embedding="none"))
    assert poor.outputs.embedding is None


def test_outputs_can_be_named(tmp_path: Path) -> None:
    """By the graph's own names, and by no other."""
    model = foreign_model(tmp_path, extras=True)
    bundle = adopt(model, tmp_path / "bundles", "named", replace(SAID, logits="logits"))
    assert bundle.outputs.logits == "logits"
    with pytest.raises(BundleError, match=r"--logits is 'scores'; .* gives logits, embedding, mel"):
        adopt(model, tmp_path / "bundles", "wrong", replace(SAID, logits="scores"))


def test_frames_are_taken_where_they_are_named(tmp_path: Path) -> None:
    """An event of a call of a second begins and ends with it; another output is refused."""
    model = foreign_model(tmp_path, frames=True)
    bundle = adopt(model, tmp_path / "bundles", "timed", replace(SAID, frames="frame_logits"))
    call = np.zeros(144_000, np.float32)
    call[48_000:96_000] = tone(4_000, 1, 48_000)
    (heard,) = Classifier(bundle).predict([one_window(call)])
    assert heard.frames is not None
    is_heard = heard.frames[1] > 0.5
    assert np.flatnonzero(is_heard)[[0, -1]] / len(is_heard) == pytest.approx(
        [1 / 3, 2 / 3], abs=0.05
    )
    for name, said in (
        ("frame", r"--frames is 'frame'; .* gives logits, frame_logits"),
        ("logits", r"frame_logits is \['batch', 3\]|must be \[batch, 3, frames\]"),
    ):
        with pytest.raises(BundleError, match=said):
            adopt(model, tmp_path / "bundles", "wrong", replace(SAID, frames=name))
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["timed"]


def test_a_graph_that_gives_probabilities_is_taken_at_its_word(tmp_path: Path) -> None:
    """Unsaid it is refused, since a second sigmoid would name everything; said, it is heard."""
    model, folder = probability_model(tmp_path), tmp_path / "bundles"
    with pytest.raises(BundleError, match="may be probabilities already: say --activation none"):
        adopt(model, folder, "unsaid", SAID)
    bundle = adopt(model, folder, "said", replace(SAID, activation="none"))
    (heard,) = Classifier(bundle).predict([one_window(tone(2_000, 3, 48_000))])
    assert heard.probabilities.round(2).tolist() == [1, 0, 0.5]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"labels": LABELS[:2]},
            r"gives logits \[1, 3\]: none is \[batch, 2\] as the 2 labels: correct --labels",
        ),
        ({"name": "../up"}, "'../up' cannot name a bundle"),
        ({"name": ""}, "'' cannot name a bundle"),
        ({"name": "garden"}, "'garden' is a shipped bundle's name: choose another --name"),
        ({"n_samples": 100}, "--samples is 100, 0.00208333 s at --rate 48000; 0.1 to 60 s"),
        ({"n_samples": 0}, "--samples is 0"),
        ({"n_samples": -5}, "--samples is -5"),
        ({"n_samples": 48_000}, "the bundle says"),
        ({"sample_rate": 48}, "--rate is 48; 1000 to 384000 Hz"),
        ({"sample_rate": 0}, "--rate is 0; 1000 to 384000 Hz"),
        ({"threshold": 2.0}, "--threshold is 2; a probability, 0 to 1"),
        ({"threshold": float("nan")}, "--threshold is nan"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    """A refused model leaves no folder, whole or half."""
    folder, name = tmp_path / "bundles", str(wrong.pop("name", "foreign"))
    with pytest.raises(BundleError, match=message):
        adopt(foreign_model(tmp_path), folder, name, replace(SAID, **wrong))  # type: ignore[arg-type]
    assert not folder.exists() or not list(folder.iterdir())


def test_what_is_wrong_is_told_of_the_bundle_by_its_name(tmp_path: Path) -> None:
    """The folder in which it is made is gone when the error is read."""
    with pytest.raises(BundleError) as told:
        adopt(
            foreign_model(tmp_path), tmp_path / "bundles", "mine", replace(SAID, n_samples=48_000)
        )
    assert str(told.value).startswith(str(tmp_path / "bundles" / "mine"))
    assert ".adding-" not in str(told.value)


def test_a_model_of_pictures_is_refused_in_words(tmp_path: Path) -> None:
    """A graph without its front end cannot hear."""
    with pytest.raises(BundleError, match=r"takes \[1, 1, 64, 100\]; .* needs its front end"):
        adopt(picture_model(tmp_path), tmp_path / "bundles", "pictures", SAID)


def test_a_graph_whose_weights_stand_beside_it_is_refused(tmp_path: Path) -> None:
    """Copied alone it would not open: the mend is a command."""
    model = onnx.load(foreign_model(tmp_path))
    path = tmp_path / "parts.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=64)
    with pytest.raises(BundleError, match=r"keeps weights in another file: save it as one"):
        adopt(path, tmp_path / "bundles", "parts", SAID)
    assert not list((tmp_path / "bundles").iterdir())


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    """The second of the same name is refused and the first stays."""
    model, folder = foreign_model(tmp_path), tmp_path / "bundles"
    first = adopt(model, folder, "mine", SAID)
    with pytest.raises(BundleError, match="mine exists: choose another --name"):
        adopt(model, folder, "mine", replace(SAID, threshold=0.9))
    assert load_bundle(folder / "mine") == first


def test_what_a_killed_adoption_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Only what is old: another may be at work."""
    old, young = tmp_path / "bundles" / ".adding-old", tmp_path / "bundles" / ".adding-young"
    for folder in (old, young):
        (folder / "half").mkdir(parents=True)
    yesterday = time.time() - 86_400
    os.utime(old, (yesterday, yesterday))
    adopt(foreign_model(tmp_path), tmp_path / "bundles", "mine", SAID)
    assert not old.exists()
    assert young.exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """A missing file and one that is no graph are named."""
    (tmp_path / "text.onnx").write_text("hello", encoding="utf-8")
    for name, said in (
        ("gone.onnx", "gone.onnx is missing: name a file"),
        (".", "is no file: name a file"),
        ("text.onnx", "text.onnx cannot be opened"),
    ):
        with pytest.raises(BundleError, match=said):
            adopt(tmp_path / name, tmp_path / "bundles", "x", SAID)


def test_a_files_name_becomes_a_bundles() -> None:
    """What no name may hold becomes a hyphen."""
    assert name_for(Path("BirdNET GLOBAL 6K_V2.4.onnx")) == "BirdNET-GLOBAL-6K_V2.4"
    assert name_for(Path("_Vögel (neu).onnx")) == "V-gel-neu"


def test_the_golden_waveform_reaches_every_frequency() -> None:
    """Noise and a tone up to half the sample rate, in range, the same every time."""
    waveform = golden_waveform(48_000, 48_000)
    assert waveform.shape == (2, 48_000)
    assert np.abs(waveform).max() < 1
    np.testing.assert_array_equal(waveform, golden_waveform(48_000, 48_000))
    spectrum = np.abs(np.fft.rfft(waveform[1]))
    assert spectrum[500:23_500].min() > 0.2 * spectrum.max()
