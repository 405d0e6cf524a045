"""From a trained denoiser to the ONNX graph that a station paints with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.encoder.running import cpu_session
from trainer.export import HALF_FROM, ExportError, export, store_half
from trainer.generator.networks import N_CONDITION

SIDE = 64
LARGEST_DELTA = 1e-3
"""|Δdenoised| that a graph may differ from the network by, in one call"""
CHECKED_SIGMAS = (0.02, 0.3, 3.0, 40.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of a denoiser."""

    delta: float
    """Largest |Δdenoised| between graph and network, both with the stored weights"""
    half_delta: float
    """What storing weights as fp16 changed, in the same measure"""


def write_denoiser(denoiser: nn.Module, path: Path) -> Exported:
    """Write a denoiser's graph with weights stored as fp16, and hold it against the network.

    Raises:
        ExportError: it differs by more than `LARGEST_DELTA`, or does not run.
    """
    full = copy.deepcopy(denoiser).cpu().float().eval()
    stored = rounded(full)
    export_denoiser(stored, path)
    store_half(path)
    inputs = checked_inputs()
    with torch.inference_mode():
        expected = stored(*inputs).numpy()
        unrounded = full(*inputs).numpy()
    delta = largest_delta(path, inputs, expected)
    if not delta < LARGEST_DELTA:
        raise ExportError(f"{path} differs from the network by {delta:.2g}; at most 1e-3")
    return Exported(delta, float(np.abs(expected - unrounded).max()))


def export_denoiser(denoiser: nn.Module, path: Path) -> None:
    """Write a denoiser as ONNX, (x, sigma, condition) -> denoised, preconditioning inside; fp32."""
    example = {
        "x": torch.randn(2, 3, SIDE, SIDE),
        "sigma": torch.tensor([0.5, 5.0]),
        "condition": torch.randn(2, N_CONDITION),
    }
    export(denoiser, example, ["denoised"], path)


def rounded(denoiser: nn.Module) -> nn.Module:
    """Return a copy whose large weights have the values that fp16 can hold."""
    copied = copy.deepcopy(denoiser)
    with torch.no_grad():
        for weights in copied.parameters():
            if weights.numel() >= HALF_FROM:
                weights.copy_(weights.half().float())
    return copied


def checked_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy pictures of several levels, the same every time: x, sigma, condition."""
    generator = np.random.default_rng(20_261_121)
    sigma = np.array(CHECKED_SIGMAS, np.float32)
    noise = generator.standard_normal((len(sigma), 3, SIDE, SIDE))
    # Whole steps, so that the golden file packs well.
    x = np.round((noise * sigma[:, None, None, None]) * 64) / 64
    condition = np.round(generator.standard_normal((len(sigma), N_CONDITION)) * 64) / 64
    arrays = (x.astype(np.float32), sigma, condition.astype(np.float32))
    first, second, third = map(torch.from_numpy, arrays)
    return first, second, third


def largest_delta(path: Path, inputs: tuple[Tensor, Tensor, Tensor], expected: Floats) -> float:
    """Return the largest |Δdenoised| of a graph, for batches of all and of one.

    Raises:
        ExportError: the graph refuses one of the batches.
    """
    session = cpu_session(path, n_threads=1)
    arrays = dict(zip(("x", "sigma", "condition"), (t.numpy() for t in inputs), strict=True))
    try:
        whole = session.run(None, arrays)[0]
        single = session.run(None, {name: array[:1] for name, array in arrays.items()})[0]
    except Exception as error:
        raise ExportError(f"{path} does not run: {error}") from error
    return float(max(np.abs(whole - expected).max(), np.abs(single - expected[:1]).max()))
