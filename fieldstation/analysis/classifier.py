"""Runs a bundle's encoder on onnxruntime: windows in, calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        names = bundle.outputs
        self._outputs = [name for name in (names.logits, names.embedding) if name is not None]

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
        logits, embeddings = self.run(np.stack([window.samples for window in windows]))
        probabilities = activate(logits, self._bundle)
        for window, row in zip(windows, probabilities, strict=True):
            if not np.isfinite(row).all():
                raise Overflow(
                    f"{_name(window)} overflows the encoder: its peak is "
                    f"{np.abs(window.samples).max():.3g}, full scale is 1"
                )
        rows = embeddings if embeddings is not None else [None] * len(windows)
        return [
            Prediction(window, row, embedding)
            for window, row, embedding in zip(windows, probabilities, rows, strict=True)
        ]

    def run(self, waveforms: Floats) -> tuple[Floats, Floats | None]:
        """Return raw logits and embeddings.

        Args:
            waveforms: float32 [n, samples_per_window], n ≥ 1.

        Returns:
            float32 [n, labels] and float32 [n, 512], or None where the bundle has no embedding.

        Raises:
            BundleError: the graph gives another number of labels than the bundle has.
        """
        step = 1 if self._one_by_one else len(waveforms)
        batches = [
            self._session.run(self._outputs, {self._bundle.input: waveforms[i : i + step]})
            for i in range(0, len(waveforms), step)
        ]
        logits, *embeddings = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        _check_shape(self._bundle, "logits", logits, (len(waveforms), len(self._bundle.labels)))
        if not embeddings:
            return logits, None
        _check_shape(self._bundle, "embedding", embeddings[0], (len(waveforms), EMBEDDING))
        return logits, embeddings[0]


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
        logits: float32 [n, labels].

    Returns:
        float32 [n, labels]: softmax or sigmoid of logits / temperature + offsets; with `none`
        what the graph gives, kept within 0..1.
    """
    if bundle.activation == "none":
        return np.asarray(np.clip(logits, 0, 1))
    z = logits / np.float32(bundle.temperature)
    if bundle.offsets:
        z = z + np.asarray(bundle.offsets, np.float32)
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
    named = {
        "logits": (bundle.outputs.logits, len(bundle.labels)),
        "embedding": (bundle.outputs.embedding, EMBEDDING),
        "mel": (bundle.outputs.mel, None),
    }
    for role, (name, width) in named.items():
        if name is None:
            continue
        if name not in shapes:
            raise BundleError(
                f"{bundle.encoder_path} has the outputs {', '.join(shapes)}; the bundle's "
                f"{role} is {name!r}: correct outputs in bundle.json"
            )
        if width is not None and not fits(shapes[name], (None, width)):
            raise BundleError(
                f"{bundle.encoder_path}: {role} is {shapes[name]}; must be [batch, {width}]"
            )


def _check_shape(bundle: Bundle, role: str, array: Floats, shape: tuple[int, int]) -> None:
    """Check what a graph with open dimensions gave."""
    if array.shape != shape:
        raise BundleError(
            f"{bundle.encoder_path} gives {role} {list(array.shape)}; must be {list(shape)}"
        )


def _check_window(window: Window, n: int) -> None:
    if window.samples.shape != (n,):
        raise ValueError(f"{_name(window)} has {window.samples.shape} samples; must be ({n},)")
    if not np.isfinite(window.samples).all():
        raise ValueError(f"{_name(window)} holds samples that are not finite")


def _name(window: Window) -> str:
    origin = f" of {window.file.path}" if window.file else ""
    return f"the window at {format_instant(window.started_at)}{origin}"
