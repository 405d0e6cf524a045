"""`fieldstation bundle` makes a bundle of a foreign graph, complete or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from fieldstation.analysis.classifier import Classifier, check_golden
from fieldstation.bundle import BundleError, load_bundle
from fieldstation.cli import main
from fieldstation.commands.bundle import adopt, golden_waveform, read_labels
from fieldstation.records import Label, LabelKind, Window
from tests.onnx_models import TONES, tone, tone_encoder

LABELS = (
    Label("Fringilla coelebs", "Chaffinch"),
    Label("Parus major", "Great Tit"),
    Label("Noise", "Noise", LabelKind.NO_BIRD),
)
TEXT = "Fringilla coelebs_Chaffinch\nParus major_Great Tit\n\nNoise_Noise\n"


def foreign_model(folder: Path, batch: int | None = 1, extras: bool = False) -> Path:
    """Write a graph as others export them: fixed batch, logits alone, no description."""
    path = folder / "foreign.onnx"
    onnx.save(tone_encoder(TONES, 48_000, 144_000, batch, extras), path)
    return path


def write(path: Path, text: str) -> Path:
    """Write a text file; return it."""
    path.write_text(text, encoding="utf-8")
    return path


def test_a_foreign_graph_becomes_a_bundle_that_names_birds(tmp_path: Path) -> None:
    """Fixed batch of one, 48 kHz, sigmoid, no embedding: described, checked, and it hears."""
    model = foreign_model(tmp_path)
    bundle = adopt(model, tmp_path / "bundles", name="foreign", labels=LABELS, sample_rate=48_000)
    assert bundle == load_bundle(tmp_path / "bundles" / "foreign")
    assert (bundle.samples_per_window, bundle.activation) == (144_000, "sigmoid")
    assert (bundle.outputs.embedding, bundle.species) == (None, LABELS[:2])
    classifier = Classifier(bundle)
    assert check_golden(classifier, bundle) < 1e-3
    window = Window(tone(4_000, 3, 48_000), started_at=0, offset=0, n_new=144_000)
    assert classifier.predict([window])[0].probabilities[:2].round(2).tolist() == [0, 1]
    assert [p.name for p in (tmp_path / "bundles").iterdir()] == ["foreign"]


def test_an_embedding_is_found_by_its_width(tmp_path: Path) -> None:
    """An output of 512 beside the logits is taken as the embedding."""
    model = foreign_model(tmp_path, batch=None, extras=True)
    bundle = adopt(model, tmp_path / "bundles", name="rich", labels=LABELS, sample_rate=48_000)
    assert (bundle.outputs.logits, bundle.outputs.embedding) == ("logits", "embedding")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": LABELS[:2]}, r"gives logits \[1, 3\]: none is \[batch, 2\] as the labels"),
        ({"name": "../up"}, "'../up' cannot name a bundle"),
        ({"n_samples": 100}, "samples_per_window|the bundle says"),
        ({"sample_rate": 48}, "sample_rate is 48|samples_per_window"),
        ({"threshold": 2.0}, "thresholds must lie in 0..1"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, wrong: dict[str, object], message: str
) -> None:
    """A refused model leaves no folder, whole or half."""
    model, folder = foreign_model(tmp_path), tmp_path / "bundles"
    asked: dict[str, object] = {"name": "foreign", "labels": LABELS, "sample_rate": 48_000}
    with pytest.raises(BundleError, match=message):
        adopt(model, folder, **{**asked, **wrong})  # type: ignore[arg-type]
    assert not folder.exists() or not list(folder.iterdir())


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    """The second of the same name is refused and the first stays."""
    model, folder = foreign_model(tmp_path), tmp_path / "bundles"
    first = adopt(model, folder, name="mine", labels=LABELS, sample_rate=48_000)
    with pytest.raises(BundleError, match="mine exists: choose another --name"):
        adopt(model, folder, name="mine", labels=LABELS, sample_rate=48_000, threshold=0.9)
    assert load_bundle(folder / "mine") == first


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """A missing file and one that is no graph are named."""
    for path in (tmp_path / "gone.onnx", write(tmp_path / "text.onnx", "hello")):
        with pytest.raises(BundleError, match=rf"{path.name} cannot be opened"):
            adopt(path, tmp_path / "bundles", name="x", labels=LABELS, sample_rate=48_000)


def test_labels_are_read_from_text_and_csv(tmp_path: Path) -> None:
    """Both forms give names and kinds; two equal names in text are no species."""
    assert read_labels(write(tmp_path / "labels.txt", TEXT)) == LABELS
    table = "scientific_name,common_name,kind\nFringilla coelebs,Chaffinch,\n"
    table += "Parus major,Great Tit,species\nNoise,,no_bird\n"
    assert read_labels(write(tmp_path / "labels.csv", "\ufeff" + table)) == LABELS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.txt", "\n\n", "holds no labels"),
        ("labels.csv", "species\nFringilla coelebs\n", "line 2 has no scientific_name"),
        ("labels.csv", "scientific_name,kind\na,frog\n", "'frog' is not a valid LabelKind"),
    ],
)
def test_a_wrong_list_of_labels_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    """The file, the line and what is wrong with it are named."""
    with pytest.raises(BundleError, match=message):
        read_labels(write(tmp_path / name, text))


def test_the_golden_waveform_reaches_every_frequency() -> None:
    """Noise and a tone up to half the sample rate, in range, the same every time."""
    waveform = golden_waveform(48_000, 48_000)
    assert waveform.shape == (2, 48_000)
    assert np.abs(waveform).max() < 1
    np.testing.assert_array_equal(waveform, golden_waveform(48_000, 48_000))
    spectrum = np.abs(np.fft.rfft(waveform[1]))
    assert spectrum[500:23_500].min() > 0.2 * spectrum.max()


def test_the_command_adds_lists_shows_and_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a bare graph to the bundle in use, by the command line alone."""
    state = ["--state", str(tmp_path / "state")]
    labels = str(write(tmp_path / "labels.txt", TEXT))
    model = str(foreign_model(tmp_path))
    assert main(["bundle", "add", model, "--labels", labels, "--rate", "48000", *state]) == 0
    assert "foreign: 2 species and 1 other labels" in capsys.readouterr().out
    assert main(["bundle", "use", "foreign", *state]) == 0
    assert main(["bundle", "list", *state]) == 0
    assert "* foreign  2 species, 3 s at 48000 Hz" in capsys.readouterr().out
    assert main(["bundle", "show", *state]) == 0
    assert "Chaffinch (Fringilla coelebs)  0.5" in capsys.readouterr().out
    assert main(["bundle", "add", model, "--labels", labels, "--rate", "48000", *state]) == 2
    assert "exists: choose another --name" in capsys.readouterr().err
