"""What a denoiser is, and a bundle's on onnxruntime; torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError
from fieldstation.generation.conditions import CONDITION, card_of
from fieldstation.generation.golden import load_generator_golden
from fieldstation.generator_card import GeneratorCard
from fieldstation.onnx_session import CPU, fits, one_line, open_session, runtime_errors

Floats = NDArray[np.float32]
Ends = Mapping[str, Sequence[Any]]
"""The shapes of a graph's inputs or outputs of float32; an open dimension is no number"""

TORCH_CPU, TORCH_CUDA = "torch-cpu", "torch-cuda"
ON_CPU = (CPU, TORCH_CPU)
"""The providers that need no GPU"""
OTHERWISE = "generation.provider or generation.runtime to another"


class PaintingError(Exception):
    """The denoiser broke on what it was given: memory, a vanished GPU, numbers out of range."""


class Denoiser(Protocol):
    """A network that sees the picture beneath noise."""

    @property
    def provider(self) -> str:
        """Return what really runs it, such as `CPUExecutionProvider`."""
        ...

    def run(self, x: Floats, sigma: Floats, condition: Floats) -> Floats:
        """Return the pictures beneath the noise.

        Args:
            x: float32 [n, 3, side, side], pictures in -1..1 plus noise.
            sigma: float32 [n], the standard deviation of each one's noise.
            condition: float32 [n, 512].

        Returns:
            float32 [n, 3, side, side].

        Raises:
            PaintingError: it failed, or gave another shape.
        """
        ...

    def __call__(self, x: Floats, sigma: float, condition: Floats) -> Floats:
        """Return the pictures beneath noise that is the same for all; see `run`."""
        return self.run(x, np.full(len(x), sigma, np.float32), condition)


class OnnxDenoiser(Denoiser):
    """A bundle's denoiser.onnx, opened and checked against its card."""

    def __init__(self, bundle: Bundle, provider: str = "auto", n_threads: int = 1) -> None:
        """Open the graph.

        Args:
            bundle: has a generator.
            provider: `cpu`, `cuda`, or `auto`: CUDA where it runs and the CPU elsewhere.
            n_threads: on the CPU.

        Raises:
            ProviderMissing: onnxruntime is not installed, or CUDA was asked for and does not run.
            BundleError: there is no generator, or its graph is damaged or not what the card says.
        """
        card = card_of(bundle)
        self._path = bundle.denoiser_path
        self._session = open_session(self._path, provider, n_threads, "generation.provider")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_ends(self._path, card, _ends(inputs), _ends(outputs))

    @property
    def provider(self) -> str:
        """Return the onnxruntime provider that really runs, such as `CPUExecutionProvider`."""
        # asked every time: after a fault of the GPU onnxruntime goes on with the CPU
        return str(self._session.get_providers()[0])

    def run(self, x: Floats, sigma: Floats, condition: Floats) -> Floats:
        """Return the pictures beneath the noise (see `Denoiser`).

        Raises:
            PaintingError: onnxruntime failed, or the graph gave another shape.
        """
        inputs = {"x": x, "sigma": sigma, "condition": condition}
        try:
            denoised = np.asarray(self._session.run(["denoised"], inputs)[0])
        except runtime_errors() as error:
            raise PaintingError(f"{self._path} failed: {one_line(error)}") from error
        if denoised.shape != x.shape:  # dimensions that are open in the graph
            raise PaintingError(f"{self._path} made {list(denoised.shape)} of {list(x.shape)}")
        return denoised


def _ends(nodes: Sequence[Any]) -> Ends:
    return {node.name: node.shape for node in nodes if node.type == "tensor(float)"}


def check_ends(path: Path, card: GeneratorCard, inputs: Ends, outputs: Ends) -> None:
    """See that a graph is asked, and answers, as its card says.

    Raises:
        BundleError: it is not.
    """
    picture = (None, 3, card.image_size, card.image_size)
    wanted = {"x": picture, "sigma": (None,), "condition": (None, CONDITION)}
    _check(path, "input", inputs, wanted)
    _check(path, "output", outputs, {"denoised": picture})


def _check(path: Path, kind: str, ends: Ends, wanted: Mapping[str, tuple[int | None, ...]]) -> None:
    for name, shape in wanted.items():
        if not fits(ends.get(name, ()), shape):
            found = ", ".join(f"{name} {list(shape)}" for name, shape in ends.items())
            expected = ["batch", *shape[1:]]
            raise BundleError(
                f"{path} has the {kind}s {found}; must have {name} {expected}, float32: "
                "export it again"
            )


def check_generator(denoiser: Denoiser, bundle: Bundle) -> float:
    """Run the generator's golden input; return the largest |Δdenoised| from what it must give.

    Raises:
        BundleError: above the tolerance of the provider that runs, not finite, or it fails.
    """
    golden = load_generator_golden(bundle)
    try:
        denoised = denoiser.run(golden.x, golden.sigma, golden.condition)
    except PaintingError as error:
        raise BundleError(
            f"{error} on its golden input: fetch it again, or set {OTHERWISE}"
        ) from error
    difference = float(np.abs(denoised - golden.denoised).max())
    tolerances = card_of(bundle).tolerance
    tolerance = tolerances.get(denoiser.provider, tolerances[CPU])
    if not difference <= tolerance:  # so that NaN fails
        raise BundleError(
            f"{bundle.path}: the generator's golden check is off by {difference:.3g} on "
            f"{denoiser.provider}; at most {tolerance:.3g}: fetch the bundle again, or set "
            f"{OTHERWISE}"
        )
    return difference
