"""Log-mel spectrograms of whole recordings, computed once: training then needs no transform."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from trainer.data.audio import AudioSet
from trainer.encoder.mel import FLOOR, LogMel, MelConfig

FORMAT = 1
SILENCE = float(np.log(FLOOR))


@dataclass(frozen=True, slots=True, eq=False)
class MelSet:
    """Log-mel frames of an `AudioSet`'s recordings, end to end."""

    frames: NDArray[np.float16]
    """[frames, n_mels], memory-mapped; fp16 costs 0.01 of a natural log at most"""
    starts: NDArray[np.int64]
    """First frame of each recording, and the end: [recordings + 1]"""
    hop_length: int

    def cut(self, recording: int, first: int, n_frames: int) -> NDArray[np.float32]:
        """Return float32 [n_mels, n_frames] from a frame on; beyond the end stands silence."""
        out = np.full((self.frames.shape[1], n_frames), SILENCE, np.float32)
        start, end = self.starts[recording : recording + 2]
        kept = self.frames[start + first : min(start + first + n_frames, end)]
        out[:, : len(kept)] = kept.T
        return out


def load_mels(audio: AudioSet, config: MelConfig, cache: Path) -> MelSet:
    """Return the log-mel frames of decoded recordings, computed now or found in `cache`."""
    lengths = np.diff(audio.starts)
    n_frames = np.array([config.n_frames(int(n)) for n in lengths])
    starts = np.concatenate([[0], np.cumsum(n_frames)])
    place = cache / f"mel-{_key(audio, config)}.f16"
    shape = (int(starts[-1]), config.n_mels)
    if not place.is_file():
        _fill(place, audio, config, starts)
    return MelSet(np.memmap(place, np.float16, "r", shape=shape), starts, config.hop_length)


def _key(audio: AudioSet, config: MelConfig) -> str:
    digest = hashlib.sha256(f"{FORMAT} {config} {audio.starts.tolist()}".encode())
    digest.update(audio.samples[:: max(1, len(audio.samples) // 1_000_000)].tobytes())
    return digest.hexdigest()[:16]


def _fill(place: Path, audio: AudioSet, config: MelConfig, starts: NDArray[np.int64]) -> None:
    """Compute all frames in a folder of its own: two trainings may begin at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent, prefix="mel-") as own:
        _write_all(Path(own, place.name), audio, config, starts)
        Path(own, place.name).replace(place)


def _write_all(path: Path, audio: AudioSet, config: MelConfig, starts: NDArray[np.int64]) -> None:
    shape = (int(starts[-1]), config.n_mels)
    frames = np.memmap(path, np.float16, "w+", shape=shape)
    front_end = LogMel(config)
    order = tqdm(range(len(audio.recordings)), desc="mel", unit="file", disable=None)
    with torch.inference_mode():
        for i in order:
            mel = front_end(torch.from_numpy(audio.of(i).copy())[None])[0].T
            frames[starts[i] : starts[i + 1]] = mel.numpy().astype(np.float16)
    frames.flush()
