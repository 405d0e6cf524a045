"""Conditions of calls: heard once, as they are and as they might have been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnxruntime", reason="needs the extra 'cpu' or 'gpu'")

from fieldstation.bundle import Bundle, Outputs
from tests.onnx_models import make_tone_bundle
from tests.trainer.recordings import RATE, tone, write_folder
from trainer.data.audio import load_audio
from trainer.data.recordings import DataError, read_recordings
from trainer.generator import embeddings
from trainer.generator.embeddings import N_VARIANTS, load_calls, mel_grid, varied

CHAFFINCH, TIT = "Fringilla coelebs", "Parus major"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return an encoder that knows two tones."""
    return make_tone_bundle(tmp_path_factory.mktemp("bundles") / "tones", sample_rate=RATE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return recordings of the two tones, and of one that the encoder does not know."""
    rows: list[dict[str, object]] = [
        {"file": "a.wav", "scientific_name": CHAFFINCH, "fold": 0, "frequency": 2000},
        {"file": "b.wav", "scientific_name": TIT, "fold": 1, "frequency": 4000},
        {"file": "c.wav", "scientific_name": CHAFFINCH, "fold": 1, "frequency": 6000},
        {"file": "d.wav", "scientific_name": "Nemo nemo", "fold": 1, "frequency": 500},
    ]
    top = tmp_path_factory.mktemp("data")
    noise = [{"file": "hum.wav", "content": "hum", "frequency": 150}]
    write_folder(top / "background", noise, "background.csv")
    return write_folder(top / "calls", rows)


def test_every_window_is_heard_with_its_variants(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    """Each recording's windows, each once as it is and as often varied, belong together."""
    calls = load_calls(bundle, folder, tmp_path, folder.parent / "background")
    for recording in range(4):
        mine = calls.recording == recording
        counts = np.bincount(calls.variant[mine])
        assert len(counts) == N_VARIANTS + 1
        assert len(set(counts)) == 1
    assert set(calls.species) == {CHAFFINCH, TIT, "Nemo nemo"}
    assert calls.embedding.shape == calls.mel.shape == (len(calls.recording), 512)


def test_the_encoder_says_how_sure_it_is_of_the_label(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    """High where the tone is the label's, low where it is not, 1 where it knows no such bird."""
    calls = load_calls(bundle, folder, tmp_path)
    sure = [calls.probability[(calls.recording == i) & (calls.variant == 0)] for i in range(4)]
    assert min(sure[0].min(), sure[1].min()) > 0.5
    assert sure[2].max() < 0.5
    assert (sure[3] == 1).all()


def test_a_foreign_encoder_is_heard_as_a_station_hears_it(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    """Window by window where its graph takes one; where it gives probabilities, they are it."""
    foreign = make_tone_bundle(tmp_path / "foreign", sample_rate=RATE, batch=1)
    calls = load_calls(bundle, folder, tmp_path)
    found = load_calls(foreign, folder, tmp_path)
    np.testing.assert_allclose(found.embedding, calls.embedding, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(found.probability, calls.probability, atol=1e-4)
    ready = replace(foreign, activation="none", temperature=1.0, offsets=())
    said = load_calls(ready, folder, tmp_path / "other")
    sure = said.probability[(said.recording == 0) & (said.variant == 0)]
    assert (sure == 1).all()


def test_calls_are_heard_once(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time they come from the cache, without the encoder; the same values."""
    first = load_calls(bundle, folder, tmp_path)
    monkeypatch.delattr(embeddings, "cpu_session")
    again = load_calls(bundle, folder, tmp_path)
    np.testing.assert_array_equal(again.embedding, first.embedding)
    with pytest.raises(NameError):
        load_calls(replace(bundle, encoder_id="another"), folder, tmp_path)


def test_a_bundle_without_embedding_is_refused(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    """There is nothing to paint from."""
    mute = replace(bundle, outputs=Outputs(embedding=None))
    with pytest.raises(DataError, match="encoder without embedding"):
        load_calls(mute, folder, tmp_path)


def test_variants_differ_in_level_and_keep_the_call(folder: Path, tmp_path: Path) -> None:
    """Between -24 and +6 dB beside the equaliser's 6; the tone stays the loudest frequency."""
    noise = load_audio(read_recordings(folder.parent / "background"), RATE, tmp_path)
    windows = np.stack([tone(2000, 1.0, level=0.2)] * 40)
    heard = varied(windows, noise, np.random.default_rng(0))
    assert heard.shape == windows.shape
    assert heard.dtype == np.float32
    assert abs(heard).max() <= 1
    gain_db = 20 * np.log10(heard.std(axis=1) / windows.std(axis=1))
    assert -31 < gain_db.min() < -15
    assert 0 < gain_db.max() < 13
    peaks = np.abs(np.fft.rfft(heard)).argmax(axis=1)
    assert set(peaks) == {2000}


def test_a_mel_becomes_a_grid_of_means() -> None:
    """32 bands × 16 times, band slowest; a flat map stays flat, a cell's mean is its cell's."""
    mel = np.zeros((2, 96, 256), np.float32)
    mel[1, 3:6, 16:32] = 5.0
    grid = mel_grid(mel)
    assert grid.shape == (2, 512)
    assert not grid[0].any()
    assert np.flatnonzero(grid[1]).tolist() == [1 * 16 + 1]
    assert grid[1, 17] == 5.0
    assert mel_grid(np.ones((1, 128, 128), np.float32)).tolist() == [[1.0] * 512]
    assert mel_grid(np.ones((1, 5, 3), np.float32)).tolist() == [[1.0] * 512]
