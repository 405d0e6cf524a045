"""Runs a bundle's encoder on onnxruntime: windows in, calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError, load_golden
from fieldstation.clock import format_instant
from fieldstation.onnx_session import CPU, fits, one_line, open_session, runtime_errors
from fieldstation.records import Prediction, Window

EMBEDDING = 512
"""What an embedding must hold: four tokens of 128 that condition the generator"""
ROLES = "logits", "embedding", "frame_logits"
"""What a station makes use of"""

Floats = NDArray[np.float32]


class Overflow(ValueError):
    """A window of which the encoder makes no finite numbers; the text names it."""


class Classifier:
    """A bundle's encoder, opened and checked against its description."""

    def __init__(self, bundle: Bundle, provider: str = "auto", n_threads: int = 1) -> None:
        """Open the graph.

        Args:
            bundle: its encoder.onnx is read.
            provider: `cpu`, `cuda`, or `auto`: CUDA where it runs and the CPU elsewhere.
            n_threads: on the CPU. One is right for a station: a window takes milliseconds, and
                a second thread costs more in waking than it saves.

        Raises:
            ProviderMissing: onnxruntime is not installed, or CUDA was asked for and does not run.
            BundleError: the graph is damaged or is not what the bundle says.
        """
        self._bundle = bundle
        self._session = open_session(bundle.encoder_path, provider, n_threads)
        self._one_by_one = _check_input(bundle, self._session.get_inputs())
        _check_outputs(bundle, self._session.get_outputs())
        named = {role: getattr(bundle.outputs, role) for role in ROLES}
        self._names = {role: name for role, name in named.items() if name is not None}

    @property
    def path(self) -> Path:
        """Return where its graph was read from."""
        return self._bundle.encoder_path

    @property
    def provider(self) -> str:
        """Return the onnxruntime provider that really runs, such as `CPUExecutionProvider`."""
        # asked every time: after a fault of the GPU onnxruntime goes on with the CPU
        return str(self._session.get_providers()[0])

    def predict(self, windows: Sequence[Window]) -> list[Prediction]:
        """Return what the encoder makes of each window, in order.

        Raises:
            Overflow: what the encoder makes of a window is not finite.
            ValueError: a window holds a sample that is not finite.
        """
        if not windows:
            return []
        for window in windows:
            _check_window(window, self._bundle.samples_per_window)
        made = self._make(np.stack([window.samples for window in windows]))
        probabilities = activate(made["logits"], self._bundle)
        _check_finite(windows, probabilities)
        nothing = [None] * len(windows)
        by_frame = made.get("frame_logits")
        frames = nothing if by_frame is None else activate(by_frame, self._bundle)
        rows = zip(windows, probabilities, made.get("embedding", nothing), frames, strict=True)
        return [Prediction(*row) for row in rows]

    def run(self, waveforms: Floats) -> tuple[Floats, Floats | None]:
        """Return raw logits and embeddings.

        Args:
            waveforms: float32 [n, samples_per_window], n ≥ 1.

        Returns:
            float32 [n, labels] and float32 [n, 512], or None where the bundle has no embedding.

        Raises:
            BundleError: the graph gives another number of labels than the bundle has.
        """
        made = self._make(waveforms)
        return made["logits"], made.get("embedding")

    def _make(self, waveforms: Floats) -> dict[str, Floats]:
        """Return by role what the graph gives; see `run`."""
        step = 1 if self._one_by_one else len(waveforms)
        batches = [
            self._session.run(
                list(self._names.values()), {self._bundle.input: waveforms[i : i + step]}
            )
            for i in range(0, len(waveforms), step)
        ]
        arrays = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        made = dict(zip(self._names, arrays, strict=True))
        for role, array in made.items():
            _check_shape(self._bundle, role, array, len(waveforms))
        return made


@dataclass(frozen=True, slots=True)
class GraphEnds:
    """Names and shapes of a graph's inputs and outputs; open dimensions are names or None."""

    inputs: Mapping[str, Sequence[int | str | None]]
    outputs: Mapping[str, Sequence[int | str | None]]


def read_ends(path: Path) -> GraphEnds:
    """Return what goes into a graph and comes out, so that a bundle can be described.

    Raises:
        ProviderMissing: onnxruntime is not installed.
        BundleError: the graph is damaged.
    """
    session = open_session(path, "cpu", n_threads=1)
    return GraphEnds(
        {node.name: node.shape for node in session.get_inputs()},
        {node.name: node.shape for node in session.get_outputs()},
    )


def check_golden(classifier: Classifier, bundle: Bundle) -> float:
    """Run the bundle's golden input and return the largest |Δlogit| from what it must give.

    Raises:
        BundleError: above the tolerance of the provider that runs, or the graph fails.
    """
    golden = load_golden(bundle)
    logits = rehearse(classifier, golden.waveform)
    difference = float(np.abs(logits - golden.logits).max())
    tolerance = bundle.tolerance.get(classifier.provider, bundle.tolerance[CPU])
    if difference > tolerance:
        raise BundleError(
            f"{bundle.path}: the golden check is off by {difference:.3g} on "
            f"{classifier.provider}; at most {tolerance:.3g}: fetch the bundle again, or set "
            "model.provider to another"
        )
    return difference


def rehearse(classifier: Classifier, waveforms: Floats) -> Floats:
    """Run a graph that may be faulty, before it is trusted; return its logits.

    Raises:
        BundleError: it fails, or gives values that are not finite.
    """
    try:
        logits, _ = classifier.run(waveforms)
    except runtime_errors() as error:
        raise BundleError(
            f"{classifier.path} fails on its golden input: {one_line(error)}: fetch it again"
        ) from error
    if not np.isfinite(logits).all():
        raise BundleError(f"{classifier.path} gives logits that are not finite: fetch it again")
    return logits


def activate(logits: Floats, bundle: Bundle) -> Floats:
    """Return calibrated probabilities.

    Args:
        logits: float32 [n, labels], or by frame [n, labels, frames].

    Returns:
        float32 alike: softmax or sigmoid of logits / temperature + offsets; with `none`
        what the graph gives, kept within 0..1.
    """
    if bundle.activation == "none":
        return np.asarray(np.clip(logits, 0, 1))
    z = logits / np.float32(bundle.temperature)
    if bundle.offsets:
        offsets = np.asarray(bundle.offsets, np.float32)
        z = z + offsets.reshape(-1, *[1] * (z.ndim - 2))
    if bundle.activation == "sigmoid":
        # tanh saturates where exp would overflow
        return np.asarray(np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * z))
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _check_input(bundle: Bundle, inputs: Sequence[Any]) -> bool:
    """Check the graph's one input; return whether it takes a batch of one only."""
    where = bundle.encoder_path
    if [node.name for node in inputs] != [bundle.input]:
        names = ", ".join(node.name for node in inputs)
        raise BundleError(
            f"{where} has the inputs {names}; the bundle says {bundle.input} alone: "
            "correct input in bundle.json"
        )
    (node,) = inputs
    if node.type != "tensor(float)":
        raise BundleError(f"{where}: input {node.name} is {node.type}; must be tensor(float)")
    if not fits(node.shape, (None, bundle.samples_per_window)):
        raise BundleError(
            f"{where}: input {node.name} is {node.shape}; the bundle says [batch, "
            f"{bundle.samples_per_window}]: correct samples_per_window or the graph"
        )
    batch = node.shape[0]
    if isinstance(batch, int) and batch != 1:
        raise BundleError(f"{where}: its batch is fixed at {batch}; export it open or as 1")
    return isinstance(batch, int)


def _check_outputs(bundle: Bundle, outputs: Sequence[Any]) -> None:
    """Check that the outputs that the bundle names are there and shaped as it says."""
    shapes = {node.name: node.shape for node in outputs}
    for role, name in asdict(bundle.outputs).items():
        if name is None:
            continue
        if name not in shapes:
            raise BundleError(
                f"{bundle.encoder_path} has the outputs {', '.join(shapes)}; the bundle's "
                f"{role} is {name!r}: correct outputs in bundle.json"
            )
        if role != "mel" and not fits(shapes[name], (None, *_widths(bundle, role))):
            raise BundleError(
                f"{bundle.encoder_path}: {role} is {shapes[name]}; must be "
                f"{_words('batch', _widths(bundle, role))}"
            )


def _check_shape(bundle: Bundle, role: str, array: Floats, n: int) -> None:
    """Check what a graph with open dimensions gave for n windows."""
    widths = _widths(bundle, role)
    if not array.size or not fits(array.shape, (n, *widths)):
        raise BundleError(
            f"{bundle.encoder_path} gives {role} {list(array.shape)}; must be {_words(n, widths)}"
        )


def _widths(bundle: Bundle, role: str) -> tuple[int | None, ...]:
    """Return the axes of an output but the first; None where any length will do."""
    n_labels = len(bundle.labels)
    return {
        "logits": (n_labels,),
        "embedding": (EMBEDDING,),
        "frame_logits": (n_labels, None),
    }[role]


def _words(first: object, widths: Sequence[int | None]) -> str:
    """Return a shape for people."""
    others = ("frames" if width is None else width for width in widths)
    return f"[{', '.join(map(str, (first, *others)))}]"


def _check_window(window: Window, n: int) -> None:
    if window.samples.shape != (n,):
        raise ValueError(f"{_name(window)} has {window.samples.shape} samples; must be ({n},)")
    if not np.isfinite(window.samples).all():
        raise ValueError(f"{_name(window)} holds samples that are not finite")


def _check_finite(windows: Sequence[Window], probabilities: Floats) -> None:
    for window, row in zip(windows, probabilities, strict=True):
        if not np.isfinite(row).all():
            raise Overflow(
                f"{_name(window)} overflows the encoder: its peak is "
                f"{np.abs(window.samples).max():.3g}, full scale is 1"
            )


def _name(window: Window) -> str:
    origin = f" of {window.file.path}" if window.file else ""
    return f"the window at {format_instant(window.started_at)}{origin}"
