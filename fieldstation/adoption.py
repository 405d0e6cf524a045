"""A bundle made of somebody else's model: looked at, run once, and written whole or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.analysis.classifier import (
    EMBEDDING,
    Classifier,
    GraphEnds,
    check_golden,
    read_ends,
    rehearse,
)
from fieldstation.bundle import (
    SAMPLE_RATES,
    SHIPPED,
    WINDOW_S,
    Bundle,
    BundleError,
    Golden,
    Outputs,
    load_bundle,
    save_bundle,
)
from fieldstation.onnx_session import CPU, CUDA
from fieldstation.records import Label

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
GOLDEN_SEED = 0
GOLDEN_AMPLITUDE = 0.1
TOLERANCE, CUDA_TOLERANCE = 2e-3, 2e-2
"""Of the golden check, as a share of the largest logit: another version of onnxruntime adds up in
another order, and BirdNET's logits then differ by up to 1e-3 of that"""
BUILDING = ".adding-"
LEFT_BEHIND_S = 3600.0
"""A half-made bundle as old as this was left by a process that was killed"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a graph does not tell of itself."""

    labels: tuple[Label, ...]
    """In the order of the logits"""
    sample_rate: int
    """Hertz"""
    n_samples: int | None = None
    """Of a window; None where the graph tells"""
    activation: str | None = None
    """`sigmoid`, `softmax` or `none`; None means sigmoid, unless the graph shows otherwise"""
    threshold: float = 0.5
    """Probability that every species must reach"""
    logits: str | None = None
    """Name of that output; None finds it by its width"""
    embedding: str | None = None
    """Name of that output, or `none`; None finds it by its width"""
    frames: str | None = None
    """Name of the output of logits per frame, [batch, labels, frames]; None has none"""
    licence: str = "unknown"


def adopt(model: Path, folder: Path, name: str, said: Said) -> Bundle:
    """Make a bundle of a foreign model below a folder.

    The golden check is what the model gives now, on this machine's CPU: it guards against later
    damage and against another provider's arithmetic, not against a model that was wrong.

    Raises:
        BundleError: the name is taken or no name, or the graph is not what it is said to be.
        ProviderMissing: onnxruntime is not installed.
    """
    if not NAME.fullmatch(name):
        raise BundleError(f"{name!r} cannot name a bundle: use letters, digits, . _ - (--name)")
    if not 0 <= said.threshold <= 1:
        raise BundleError(f"--threshold is {said.threshold:g}; a probability, 0 to 1")
    low, high = SAMPLE_RATES
    if not low <= said.sample_rate <= high:
        raise BundleError(f"--rate is {said.sample_rate}; {low} to {high} Hz")
    if not model.is_file():
        raise BundleError(f"{model} is {'no file' if model.exists() else 'missing'}: name a file")
    _check_window(said)
    target = folder / name
    if target.exists():
        raise BundleError(f"{target} exists: choose another --name, or remove it")
    if (SHIPPED / name).exists():
        # found first, it would be in use from the next start on, and nobody chose it
        raise BundleError(f"{name!r} is a shipped bundle's name: choose another --name")
    described = describe(model, name, said)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_up(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=BUILDING) as temporary:
            built = Path(temporary) / name
            built.mkdir(mode=0o755)
            shutil.copyfile(model, built / "encoder.onnx")
            _refuse_parts(model, built / "encoder.onnx")
            with _told_of(built, target):
                _complete(replace(described, path=built), said)
            built.rename(target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
    return load_bundle(target)


def _check_window(said: Said) -> None:
    low, high = WINDOW_S
    if said.n_samples is not None and not low <= said.n_samples / said.sample_rate <= high:
        raise BundleError(
            f"--samples is {said.n_samples}, {said.n_samples / said.sample_rate:g} s at --rate "
            f"{said.sample_rate}; {low:g} to {high:g} s"
        )


def name_for(model: Path) -> str:
    """Return a name for a model's bundle: the file's, with a hyphen for what no name may hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.stem).strip("-._")[:64]


def describe(model: Path, name: str, said: Said) -> Bundle:
    """Return what the graph and its giver tell of a bundle.

    Raises:
        BundleError: they contradict each other.
    """
    ends = read_ends(model)
    if len(ends.inputs) != 1:
        raise BundleError(f"{model} has the inputs {', '.join(ends.inputs)}; must have one")
    ((input_name, shape),) = ends.inputs.items()
    if len(shape) != 2:
        raise BundleError(
            f"{model} takes {_shape(shape)}; it must take a waveform [batch, samples]: a model of "
            "spectrograms needs its front end in the graph"
        )
    n_samples = said.n_samples or (shape[1] if isinstance(shape[1], int) else None)
    if n_samples is None:
        raise BundleError(f"{model} takes windows of any length: say --samples")
    logits = _logits(model, ends, said)
    frames = said.frames and _named(model, ends, said.frames, "--frames")
    return Bundle(
        path=model.parent,
        name=name,
        encoder_id="",
        labels=said.labels,
        thresholds=(said.threshold,) * len(said.labels),
        sample_rate=said.sample_rate,
        samples_per_window=n_samples,
        input=input_name,
        outputs=Outputs(logits, _embedding(model, ends, said, logits), None, frames),
        activation=said.activation or "sigmoid",
        licence=said.licence,
    )


def golden_waveform(n_samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Return noise and a rising tone, float32 [2, n]: every mel band hears something."""
    noise = np.random.default_rng(GOLDEN_SEED).normal(0, GOLDEN_AMPLITUDE, n_samples)
    t = np.arange(n_samples) / sample_rate
    slope = sample_rate / 2 / t[-1]  # hertz a second, up to half the sample rate
    tone = GOLDEN_AMPLITUDE * np.sin(np.pi * slope * t**2)
    return np.stack([noise, tone]).astype(np.float32)


def _logits(model: Path, ends: GraphEnds, said: Said) -> str:
    """Return the output that has one value a label."""
    if said.logits is not None:
        return _named(model, ends, said.logits, "--logits")
    widths = _widths(ends)
    exact = [name for name, width in widths.items() if width == len(said.labels)]
    found = exact or [name for name, width in widths.items() if not isinstance(width, int)]
    if not found:
        shapes = ", ".join(f"{name} {_shape(shape)}" for name, shape in ends.outputs.items())
        n = len(said.labels)
        raise BundleError(
            f"{model} gives {shapes}: none is [batch, {n}] as the "
            f"{n} labels: correct --labels, or say --logits NAME"
        )
    if len(found) > 1:
        raise BundleError(f"{model} gives {', '.join(found)}, all as wide: say --logits NAME")
    return found[0]


def _embedding(model: Path, ends: GraphEnds, said: Said, logits: str) -> str | None:
    """Return the output that can condition a generator, if there is one."""
    if said.embedding == "none":
        return None
    if said.embedding is not None:
        return _named(model, ends, said.embedding, "--embedding")
    widths = _widths(ends)
    return next((n for n, width in widths.items() if width == EMBEDDING and n != logits), None)


def _named(model: Path, ends: GraphEnds, name: str, option: str) -> str:
    if name not in ends.outputs:
        raise BundleError(
            f"{option} is {name!r}; {model} gives {', '.join(ends.outputs)}: name one of them"
        )
    return name


def _widths(ends: GraphEnds) -> Mapping[str, int | str | None]:
    return {name: shape[-1] for name, shape in ends.outputs.items() if len(shape) == 2}


def _shape(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join(str(n) if n is not None else '?' for n in shape)}]"


def _refuse_parts(model: Path, copied: Path) -> None:
    """Refuse a graph that opens where it was and not alone: its weights stand beside it."""
    try:
        read_ends(copied)
    except BundleError as error:
        raise BundleError(
            f"{model} keeps weights in another file: save it as one, "
            f"python -c \"import onnx; onnx.save(onnx.load('{model}'), 'one.onnx')\""
        ) from error


def _complete(bundle: Bundle, said: Said) -> None:
    """Run the encoder for its golden check and write the rest of the bundle beside it."""
    waveform = golden_waveform(bundle.samples_per_window, bundle.sample_rate)
    logits = rehearse(Classifier(bundle, "cpu"), waveform)
    if said.activation is None and logits.min() >= 0 and logits.max() <= 1:
        raise BundleError(
            f"{bundle.outputs.logits} gives {logits.min():.2g} to {logits.max():.2g}, which may be "
            "probabilities already: say --activation none, or sigmoid or softmax if they are not"
        )
    largest = max(1.0, float(np.abs(logits).max()))
    notice = f"Added by `fieldstation bundle add`. Licence of the model: {bundle.licence}."
    tolerance = {CPU: TOLERANCE * largest, CUDA: CUDA_TOLERANCE * largest}
    saved = save_bundle(replace(bundle, tolerance=tolerance), Golden(waveform, logits), notice)
    check_golden(Classifier(saved, "cpu"), saved)


@contextmanager
def _told_of(built: Path, target: Path) -> Iterator[None]:
    """Have errors name the bundle, not the folder in which it is made."""
    try:
        yield
    except BundleError as error:
        raise type(error)(str(error).replace(str(built), str(target))) from error


def _clear_up(folder: Path) -> None:
    """Remove what an adoption that was killed left half made."""
    for path in folder.glob(f"{BUILDING}*"):
        if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
            shutil.rmtree(path, ignore_errors=True)
