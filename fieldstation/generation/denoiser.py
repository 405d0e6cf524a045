"""Runs a bundle's denoiser on onnxruntime; torch is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError
from fieldstation.generation.conditions import CONDITION, card_of
from fieldstation.generation.golden import load_generator_golden
from fieldstation.onnx_session import CPU, fits, one_line, open_session, runtime_errors

Floats = NDArray[np.float32]


class PaintingError(Exception):
    """The denoiser broke on what it was given: memory, a vanished GPU, numbers out of range."""


class Denoiser(Protocol):
    """A network that sees the picture beneath noise."""

    @property
    def provider(self) -> str:
        """Return what really runs it, such as `CPUExecutionProvider`."""
        ...

    def __call__(self, x: Floats, sigma: float, condition: Floats) -> Floats:
        """Return the pictures beneath the noise.

        Args:
            x: float32 [n, 3, side, side], pictures in -1..1 plus noise.
            sigma: the noise's standard deviation.
            condition: float32 [n, 512].

        Returns:
            float32 [n, 3, side, side].
        """
        ...


class OnnxDenoiser:
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
        side = card_of(bundle).image_size
        self._path = bundle.denoiser_path
        self._session = open_session(self._path, provider, n_threads, "generation.provider")
        picture = (None, 3, side, side)
        inputs = {"x": picture, "sigma": (None,), "condition": (None, CONDITION)}
        self._check("input", self._session.get_inputs(), inputs)
        self._check("output", self._session.get_outputs(), {"denoised": picture})

    @property
    def provider(self) -> str:
        """Return the onnxruntime provider that really runs, such as `CPUExecutionProvider`."""
        # asked every time: after a fault of the GPU onnxruntime goes on with the CPU
        return str(self._session.get_providers()[0])

    def __call__(self, x: Floats, sigma: float, condition: Floats) -> Floats:
        """Return the pictures beneath the noise (see `Denoiser`).

        Raises:
            PaintingError: onnxruntime failed, or the graph gave another shape.
        """
        return self.run(x, np.full(len(x), sigma, np.float32), condition)

    def run(self, x: Floats, sigma: Floats, condition: Floats) -> Floats:
        """Return the pictures beneath the noise, each of its own level, sigma float32 [n].

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

    def _check(
        self, kind: str, nodes: Sequence[Any], wanted: dict[str, tuple[int | None, ...]]
    ) -> None:
        shapes = {node.name: node.shape for node in nodes if node.type == "tensor(float)"}
        for name, shape in wanted.items():
            if not fits(shapes.get(name, ()), shape):
                found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                expected = ["batch", *shape[1:]]
                raise BundleError(
                    f"{self._path} has the {kind}s {found}; must have {name} {expected}, float32: "
                    "export it again"
                )


def check_generator(denoiser: OnnxDenoiser, bundle: Bundle) -> float:
    """Run the generator's golden input; return the largest |Δdenoised| from what it must give.

    Raises:
        BundleError: above the tolerance of the provider that runs, not finite, or it fails.
    """
    golden = load_generator_golden(bundle)
    try:
        denoised = denoiser.run(golden.x, golden.sigma, golden.condition)
    except PaintingError as error:
        raise BundleError(f"{error} on its golden input: fetch it again") from error
    difference = float(np.abs(denoised - golden.denoised).max())
    tolerances = card_of(bundle).tolerance
    tolerance = tolerances.get(denoiser.provider, tolerances[CPU])
    if not difference <= tolerance:  # so that NaN fails
        raise BundleError(
            f"{bundle.path}: the generator's golden check is off by {difference:.3g} on "
            f"{denoiser.provider}; at most {tolerance:.3g}: fetch the bundle again, or set "
            "generation.provider to another"
        )
    return difference
