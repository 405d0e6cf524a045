"""The mel front end computes what librosa computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
librosa = pytest.importorskip("librosa", reason="needs the extra 'train'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from onnx import numpy_helper  # noqa: E402

from trainer.encoder.mel import FAINTEST, FLOOR, LogMel, MelConfig  # noqa: E402
from trainer.encoder.running import cpu_session  # noqa: E402
from trainer.export import export  # noqa: E402

COARSE = MelConfig()
FINE = MelConfig(n_fft=1024, hop_length=256, n_mels=96, fmin=150.0, fmax=10_500.0)


def reference(waveform: np.ndarray, config: MelConfig) -> np.ndarray:
    """Return librosa's log-mel."""
    power = librosa.feature.melspectrogram(
        y=waveform,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    )
    return np.log(np.maximum(FLOOR, power))


def waveforms(n_samples: int) -> np.ndarray:
    """Return noise, and a loud and a faint sweep, float32 [3, n_samples]."""
    at = np.arange(n_samples) / 22_050
    sweep = np.sin(2 * np.pi * (500 * at + 1500 * at**2))
    noise = np.random.default_rng(1).standard_normal(n_samples) * 0.1
    hiss = np.random.default_rng(2).standard_normal(n_samples) * 1e-3
    return np.stack([noise, sweep + hiss, 1e-2 * sweep + hiss]).astype(np.float32)


@pytest.mark.parametrize("config", [COARSE, FINE])
@pytest.mark.parametrize("rows", [None, 16, 32])
def test_agrees_with_librosa(config: MelConfig, rows: int | None) -> None:
    """Every factorisation gives librosa's log-mel to within float32's noise."""
    x = waveforms(66_150)
    ours = LogMel(config, rows)(torch.from_numpy(x)).numpy()
    theirs = reference(x, config)
    assert ours.shape == theirs.shape == (3, config.n_mels, config.n_frames(66_150))
    # Of a full-scale sweep, bins 60 dB below the peak hold float32's rounding, not the signal.
    audible = theirs > theirs.max(axis=(1, 2), keepdims=True) - np.log(1e6)
    np.testing.assert_allclose(ours[audible], theirs[audible], atol=1e-3)
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-5)


@pytest.mark.parametrize(
    "config",
    [
        MelConfig(n_fft=1536, hop_length=512),
        MelConfig(n_fft=512, hop_length=512, n_mels=40),
        MelConfig(sample_rate=44_100, n_fft=1764, hop_length=882),
        MelConfig(sample_rate=16_000, n_fft=400, hop_length=100, n_mels=40),
    ],
)
def test_any_grid_that_is_not_refused_agrees_with_librosa(config: MelConfig) -> None:
    """Three hops a frame or one, other rates, lengths that are no power of two."""
    x = waveforms(16_001)[:1]
    ours = LogMel(config)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, reference(x, config), atol=1e-4)


def test_training_hears_what_the_graph_hears() -> None:
    """The quicker way of training is the same front end, of which the middle frames are kept."""
    front_end, x = LogMel(FINE), torch.from_numpy(waveforms(66_150))
    for n_frames in (256, 259):
        graph, training = front_end(x, n_frames), front_end.by_fft(x, n_frames)
        assert training.shape == graph.shape
        audible = graph > graph.amax(dim=(1, 2), keepdim=True) - np.log(1e6)
        assert torch.allclose(training[audible], graph[audible], atol=1e-3)
        assert torch.allclose(training[0], graph[0], atol=2e-5)


def test_a_window_that_is_not_finite_harms_no_other() -> None:
    """Windows of a batch lie side by side in every product."""
    x = torch.from_numpy(waveforms(66_150))
    broken = x.clone()
    broken[1, 30_000] = float("nan")
    front_end = LogMel(FINE)
    ours, theirs = front_end(broken), front_end(x)
    assert ours[1].isnan().any()
    torch.testing.assert_close(ours[[0, 2]], theirs[[0, 2]], atol=1e-5, rtol=0)


def test_a_pure_tone_peaks_in_its_band() -> None:
    """A 2 kHz sine is loudest in the filter around 2 kHz."""
    at = np.arange(22_050) / 22_050
    tone = torch.from_numpy(np.sin(2 * np.pi * 2000 * at).astype(np.float32))[None]
    band = int(LogMel(COARSE)(tone)[0, :, 20].argmax())
    centres = librosa.mel_frequencies(COARSE.n_mels + 2, fmin=0, fmax=11_025)[1:-1]
    assert abs(centres[band] - 2000) < 60


def test_silence_is_the_floor() -> None:
    """All-zero input gives the logarithm of the floor, not minus infinity."""
    mel = LogMel(COARSE)(torch.zeros(1, 66_150))
    torch.testing.assert_close(mel, torch.full_like(mel, float(np.log(FLOOR))))


def test_nothing_is_normalised_per_window() -> None:
    """Ten times the amplitude is ln 100 more everywhere above the floor."""
    x = torch.from_numpy(waveforms(66_150)[:1])
    front_end = LogMel(COARSE)
    gain = front_end(10 * x) - front_end(x)
    torch.testing.assert_close(gain, torch.full_like(gain, float(np.log(100))), atol=1e-3, rtol=0)


def test_the_front_end_is_no_weight() -> None:
    """The matrices are constants: neither trained nor kept in a checkpoint."""
    front_end = LogMel(COARSE)
    assert not list(front_end.parameters())
    assert not front_end.state_dict()


@pytest.mark.parametrize(
    ("config", "rows", "said"),
    [
        (MelConfig(n_fft=2048, hop_length=500), None, "2048 and hop_length 500: choose an even"),
        (MelConfig(n_fft=1764, hop_length=441), None, "1764 and hop_length 441: choose an even"),
        (MelConfig(n_fft=1026, hop_length=342), None, "as n_fft a multiple of it and of 4"),
        (MelConfig(n_fft=2048), 15, "rows is 15; must be one of"),
    ],
)
def test_refuses_what_it_cannot_factor(config: MelConfig, rows: int | None, said: str) -> None:
    """A grid that the matrix products do not fit is named with its value."""
    with pytest.raises(ValueError, match=said):
        LogMel(config, rows)


def test_the_middle_frames_are_kept() -> None:
    """Asked for fewer frames, it gives the middle ones of all."""
    x = torch.from_numpy(waveforms(66_150))
    front_end = LogMel(FINE)
    torch.testing.assert_close(front_end(x, 256), front_end(x)[:, :, 1:257], atol=1e-5, rtol=0)


def test_a_graph_hears_what_torch_hears(tmp_path: Path) -> None:
    """Exported, the front end gives the same log-mel, of one window as of three."""
    graph, x = exported(tmp_path), waveforms(66_150)
    session = cpu_session(graph, n_threads=1)
    expected = LogMel(FINE)(torch.from_numpy(x)).numpy()
    for n in (1, 3):
        mel = session.run(None, {"waveform": x[:n]})[0]
        np.testing.assert_allclose(mel, expected[:n], atol=1e-3)


@pytest.mark.parametrize("amplitude", [0.0, 1e-40, 1e-30, 1e-19])
def test_no_number_is_too_small_for_a_processor(amplitude: float) -> None:
    """However faint the sound, samples and powers are normal numbers: others take 20 times as
    long."""
    x = torch.from_numpy(waveforms(66_150)) * amplitude
    front_end = LogMel(FINE)
    hops = front_end.hops(x, 256)
    assert hops.abs().min() > 1e-30
    power = front_end.power(hops)
    # Two sums of a thousand lie near a zero of what is added; 1e-38 is where normal numbers end.
    assert (power > 1e-30).float().mean() > 0.99


def test_the_exporter_keeps_what_is_added_to_silence(tmp_path: Path) -> None:
    """It takes a sum with a single small number for no sum, and leaves it out."""
    graph = onnx.load(exported(tmp_path)).graph
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    values = [numpy_helper.to_array(t) for t in graph.initializer if t.name in added]
    assert any((value == np.float32(FAINTEST)).all() for value in values)


def exported(folder: Path) -> Path:
    """Return the fine front end as a graph."""
    path = folder / "mel.onnx"
    export(LogMel(FINE).eval(), {"waveform": torch.randn(2, 66_150)}, ["mel"], path)
    return path
