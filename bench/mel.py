"""Measure the mel front end inside a graph beside librosa and torchaudio.

    python bench/mel.py [--windows 200]

Same 3 s waveforms, one thread each, medians. Error is the largest |Δ| of the log-mel against
librosa, where librosa is within 60 dB of the window's loudest cell, and everywhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.encoder.mel import FLOOR, LogMel, MelConfig
from trainer.encoder.running import cpu_session

SEED = 20_261_121
WINDOW_S = 3
CONFIGS = {
    "2048/512/128": MelConfig(),
    "1024/256/128": MelConfig(n_fft=1024, hop_length=256),
}
RESULT = Path(__file__).parent / "results" / "mel.json"

Floats = NDArray[np.float32]
Front = Callable[[Floats], Floats]


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200)
    n_windows = parser.parse_args().windows
    torch.set_num_threads(1)
    result = {
        "device": f"{platform.machine()} CPU, one thread",
        "seed": SEED,
        "windows": n_windows,
        "window_s": WINDOW_S,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("onnxruntime", "librosa", "torch", "torchaudio", "numpy")
        },
        "configs": {name: measure(config, n_windows) for name, config in CONFIGS.items()},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


def measure(config: MelConfig, n_windows: int) -> dict[str, dict[str, float]]:
    """Return error against librosa and median time of each front end."""
    waveforms = noise_and_song(n_windows, config.sample_rate)
    fronts: dict[str, Front] = {
        "ours in onnxruntime": in_graph(config),
        "librosa": lambda x: of_librosa(x, config),
        "torchaudio": of_torchaudio(config),
    }
    times = medians_ms(fronts, waveforms)
    errors = {name: error(front, config, waveforms[:8]) for name, front in fronts.items()}
    return {name: {"median_ms": times[name], **errors[name]} for name in fronts}


def noise_and_song(n_windows: int, sample_rate: int) -> Floats:
    """Return windows of a sweeping tone in noise, float32 [windows, 1, samples]."""
    generator = np.random.default_rng(SEED)
    at = np.arange(WINDOW_S * sample_rate) / sample_rate
    noise = generator.standard_normal((n_windows, len(at))) * 0.01
    pitch = generator.uniform(1000, 6000, (n_windows, 1))
    song = 0.3 * np.sin(2 * np.pi * (pitch * at + 300 * at**2)) * (np.sin(40 * at) > 0)
    return (noise + song).astype(np.float32)[:, None]


def medians_ms(fronts: dict[str, Front], waveforms: Floats) -> dict[str, float]:
    """Return the median time a window of each, taken in turn so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in fronts}
    for front in fronts.values():
        front(waveforms[0])
    for waveform in waveforms:
        for name, front in fronts.items():
            started_at = time.perf_counter()
            front(waveform)
            times[name].append(time.perf_counter() - started_at)
    return {name: round(1e3 * float(np.median(values)), 3) for name, values in times.items()}


def error(front: Front, config: MelConfig, waveforms: Floats) -> dict[str, float]:
    """Return the largest |Δ| against librosa, near the peak and everywhere."""
    near = everywhere = 0.0
    for waveform in waveforms:
        expected = of_librosa(waveform, config)
        delta = abs(front(waveform) - expected)
        loud = expected > expected.max() - np.log(1e6)
        near, everywhere = max(near, float(delta[loud].max())), max(everywhere, float(delta.max()))
    return {"max_error_within_60_db": near, "max_error": everywhere}


def in_graph(config: MelConfig) -> Front:
    """Return our front end, exported alone and run by onnxruntime on one thread."""
    front_end: nn.Module = LogMel(config).eval()
    example = torch.randn(2, WINDOW_S * config.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mel.onnx"
        torch.onnx.export(
            front_end,
            (example,),
            path,
            input_names=["waveform"],
            dynamic_shapes={"waveform": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = cpu_session(path, n_threads=1)
    return lambda x: np.asarray(session.run(None, {"waveform": x})[0])


def of_librosa(waveform: Floats, config: MelConfig) -> Floats:
    """Return librosa's log-mel."""
    power = librosa.feature.melspectrogram(
        y=waveform,
        sr=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
    )
    return np.asarray(np.log(np.maximum(FLOOR, power)), np.float32)


def of_torchaudio(config: MelConfig) -> Front:
    """Return torchaudio's log-mel with librosa's conventions."""
    from trainer.encoder.audio_transforms import torchaudio

    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        n_mels=config.n_mels,
        pad_mode="constant",
        norm="slaney",
        mel_scale="slaney",
    )

    def front(waveform: Floats) -> Floats:
        with torch.inference_mode():
            return torch.log(torch.clamp(transform(torch.from_numpy(waveform)), FLOOR)).numpy()  # type: ignore[no-any-return]

    return front


if __name__ == "__main__":
    main()
