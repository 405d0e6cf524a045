"""Conditions of calls: every window of every recording through the frozen encoder, once.

The front end hears absolute levels, so the same call near and far has two embeddings. Each window
is therefore embedded as it is and in a few variants (other level, other filter, background
beneath), from which training draws. Besides the embedding, each window's log-mel is kept as a
grid of 32 bands × 16 times: 512 values, the condition of the table's line `mel`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from fieldstation.analysis.classifier import activate
from fieldstation.bundle import Bundle
from trainer.data.audio import AudioSet, Samples, load_audio
from trainer.data.recordings import DataError, Recording, content_hash, read_recordings
from trainer.data.windows import WindowGrid, WindowSet, active_windows
from trainer.encoder.running import cpu_session

FORMAT = 3
"""Part of the cache's key: raise it when a variant is made in another way"""
N_VALUES = 512
"""Of a condition"""
MEL_GRID = (32, 16)
"""Bands and times that a log-mel is averaged to"""
N_VARIANTS = 3
"""Of each window, beside the window itself"""
GAIN_DB = (-24.0, 6.0)
TILT_DB = 6.0
"""A random smooth equaliser: distance, foliage and microphones differ so"""
BACKGROUND_SHARE = 0.5
BACKGROUND_DB = (-30.0, -5.0)
"""Level of background against the window"""
BATCH = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Conditions of windows, variants included; arrays are per row."""

    recordings: tuple[Recording, ...]
    embedding: Floats
    """[rows, 512]"""
    mel: Floats
    """[rows, 512]: the log-mel's grid, band slowest"""
    recording: NDArray[np.int64]
    """Index into `recordings`"""
    variant: NDArray[np.int64]
    """0: the window as it is"""
    probability: Floats
    """That the encoder gives the recording's own species"""

    def without_fold(self, fold: int | None) -> Calls:
        """Return the calls of all recordings that do not belong to a fold."""
        if fold is None:
            return self
        return self.only([r.fold != fold for r in self.recordings])

    def of_tiers(self, tiers: Collection[str] | None) -> Calls:
        """Return the calls whose licence tier is among some, or is not stated; None: all."""
        if tiers is None:
            return self
        return self.only([not r.licence_tier or r.licence_tier in tiers for r in self.recordings])

    def only(self, wanted: Sequence[bool]) -> Calls:
        """Return the calls of the wanted recordings; indices stay those of `recordings`."""
        return self.rows(np.flatnonzero(np.array(wanted, np.bool_)[self.recording]))

    def rows(self, rows: NDArray[np.int64]) -> Calls:
        """Return some rows."""
        return Calls(
            self.recordings,
            self.embedding[rows],
            self.mel[rows],
            self.recording[rows],
            self.variant[rows],
            self.probability[rows],
        )

    @property
    def species(self) -> NDArray[np.str_]:
        """Return the scientific name of each row."""
        names = np.array([r.scientific_name for r in self.recordings])
        return names[self.recording]


def load_calls(
    bundle: Bundle,
    folder: Path,
    cache: Path,
    background: Path | None = None,
    tiers: Collection[str] | None = None,
) -> Calls:
    """Return the conditions of a folder's recordings, computed now or found in `cache`.

    Args:
        bundle: whose encoder hears them; it must give embeddings of 512 values.
        background: folder of recordings without birds, to be mixed beneath.

    Raises:
        DataError: the encoder gives no embedding, or the recordings cannot be read.
    """
    if bundle.outputs.embedding is None:
        raise DataError(f"{bundle.path} has an encoder without embedding: use another --encoder")
    recordings = [r for r in read_recordings(folder, tiers) if r.scientific_name]
    noise = read_recordings(background) if background else ()
    audio = load_audio(recordings, bundle.sample_rate, cache)
    key = f"{FORMAT} {bundle.encoder_id} {content_hash(audio.recordings)} {content_hash(noise)}"
    order = hashlib.sha256("\n".join([key, *(r.file for r in audio.recordings)]).encode())
    place = cache / f"calls-{bundle.encoder_id}-{order.hexdigest()[:16]}.npz"
    if not place.is_file():
        beneath = load_audio(noise, bundle.sample_rate, cache) if noise else None
        _save(place, _hear(bundle, audio, beneath))
    with np.load(place, allow_pickle=False) as kept:
        return Calls(
            audio.recordings,
            kept["embedding"].astype(np.float32),
            kept["mel"].astype(np.float32),
            kept["recording"],
            kept["variant"],
            kept["probability"],
        )


def mel_grid(mel: Floats) -> Floats:
    """Return log-mels [n, bands, frames] averaged to the grid, [n, 512]."""
    bands, times = MEL_GRID
    by_band = _averaged(mel, bands, axis=1)
    return _averaged(by_band, times, axis=2).reshape(len(mel), -1)


def varied(windows: Samples, beneath: AudioSet | None, chance: np.random.Generator) -> Samples:
    """Return windows as another microphone at another distance might have heard them."""
    out = np.stack([_tilted(row, chance) for row in windows])
    if beneath is not None:
        for i in np.flatnonzero(chance.random(len(out)) < BACKGROUND_SHARE):
            out[i] += _noise_for(out[i], beneath, chance)
    gain = 10 ** (chance.uniform(*GAIN_DB, (len(out), 1)) / 20)
    return np.clip(out * gain, -1, 1).astype(np.float32)


def _hear(bundle: Bundle, audio: AudioSet, beneath: AudioSet | None) -> dict[str, Any]:
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window // 2)
    windows = active_windows(audio, grid)
    session = cpu_session(bundle.encoder_path, n_threads=1)
    parts = []
    rows = tqdm(range(0, len(windows), BATCH), desc="embedding calls", disable=None)
    for first in rows:
        here = np.arange(first, min(first + BATCH, len(windows)))
        parts += _hear_batch(bundle, session, windows, here, beneath)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _hear_batch(
    bundle: Bundle,
    session: onnxruntime.InferenceSession,
    windows: WindowSet,
    here: NDArray[np.int64],
    beneath: AudioSet | None,
) -> list[dict[str, Any]]:
    chance = np.random.default_rng((FORMAT, int(here[0])))
    samples = windows.read(here)
    heard = [samples]
    for _ in range(N_VARIANTS):
        heard.append(varied(samples, beneath, chance))
    names = [windows.audio.recordings[i].scientific_name for i in windows.recording[here]]
    owner = windows.recording[here]
    return [
        _answer(bundle, session, variant, names)
        | {"recording": owner, "variant": np.full(len(here), at)}
        for at, variant in enumerate(heard)
    ]


def _answer(
    bundle: Bundle, session: onnxruntime.InferenceSession, samples: Samples, names: Sequence[str]
) -> dict[str, Any]:
    outputs = bundle.outputs
    wanted = [outputs.logits, outputs.embedding, *([outputs.mel] if outputs.mel else [])]
    # A foreign graph may take a batch of one only.
    step = 1 if isinstance(session.get_inputs()[0].shape[0], int) else len(samples)
    answers = [
        session.run(wanted, {bundle.input: samples[i : i + step]})
        for i in range(0, len(samples), step)
    ]
    logits, embedding, *mel = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    if embedding.shape[1:] != (N_VALUES,):
        raise DataError(f"{bundle.path} gives embeddings {embedding.shape[1:]}; must be {N_VALUES}")
    grid = mel_grid(mel[0]) if mel else np.zeros((len(samples), N_VALUES), np.float32)
    return {
        "embedding": embedding.astype(np.float16),
        "mel": grid.astype(np.float16),
        "probability": _own_probability(bundle, logits, names),
    }


def _own_probability(bundle: Bundle, logits: Floats, names: Sequence[str]) -> Floats:
    """Return what each row's own species gets; 1 for a species that the encoder does not know."""
    probabilities = activate(logits, bundle)
    at = {label.scientific_name: i for i, label in enumerate(bundle.labels)}
    own = [
        row[at[name]] if name in at else 1.0 for row, name in zip(probabilities, names, strict=True)
    ]
    return np.array(own, np.float32)


def _save(place: Path, arrays: dict[str, Any]) -> None:
    temporary = place.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(place)


def _averaged(values: Floats, n: int, axis: int) -> Floats:
    """Return an axis averaged to n cells of nearly equal length; of fewer values, repeated."""
    edges = np.arange(n + 1) * values.shape[axis] // n
    cells = [slice(low, max(low + 1, high)) for low, high in itertools.pairwise(edges.tolist())]
    moved = np.moveaxis(values, axis, 0)
    return np.moveaxis(np.stack([moved[cell].mean(axis=0) for cell in cells]), 0, axis)


def _tilted(samples: Samples, chance: np.random.Generator) -> Samples:
    """Return a window through a random equaliser, linear in decibels between four points."""
    spectrum = np.fft.rfft(samples)
    points = chance.uniform(-TILT_DB, TILT_DB, 4)
    gain_db = np.interp(np.linspace(0, 3, len(spectrum)), np.arange(4), points)
    tilted = np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(samples))
    return tilted.astype(np.float32)


def _noise_for(row: Samples, beneath: AudioSet, chance: np.random.Generator) -> Samples:
    """Return a stretch of background, at a random level against a window."""
    samples = beneath.of(int(chance.integers(len(beneath.recordings))))
    first = int(chance.integers(max(1, len(samples) - len(row))))
    noise = np.resize(samples[first : first + len(row)], len(row))
    power = float(np.mean(noise**2))
    wanted = float(np.mean(row**2)) * 10 ** (chance.uniform(*BACKGROUND_DB) / 10)
    return noise * np.float32(np.sqrt(wanted / power)) if power > 0 else noise
