"""Runs a bundle's denoiser in torch, for who has it and a GPU."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from fieldstation.bundle import Bundle
from fieldstation.errors import PassingError
from fieldstation.generation.conditions import card_of
from fieldstation.generation.denoiser import (
    TORCH_CPU,
    TORCH_CUDA,
    Denoiser,
    Floats,
    PaintingError,
    check_ends,
)
from fieldstation.generation.torch_graph import FAILURES, TorchGraph, first_line
from fieldstation.onnx_session import ProviderMissing

log = logging.getLogger(__name__)


class GpuFull(PassingError):
    """Others have taken the GPU's memory."""


class TorchDenoiser(Denoiser):
    """A bundle's denoiser.onnx, its operators computed by torch in fp32."""

    def __init__(self, bundle: Bundle, provider: str = "auto", n_threads: int = 1) -> None:
        """Read the graph. Torch's threads and precision are the whole process's.

        Args:
            bundle: has a generator.
            provider: `cpu`, `cuda`, or `auto`: CUDA where it runs and the CPU elsewhere.
            n_threads: on the CPU.

        Raises:
            ProviderMissing: CUDA was asked for and does not run.
            GpuFull: it runs, and has no memory left.
            BundleError: there is no generator, or its graph is damaged, not what the card says,
                or has an operator that is not known here.
        """
        card = card_of(bundle)
        torch.set_num_threads(n_threads)
        # A seed is the same picture everywhere: TF32 keeps 10 bits of mantissa.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._path = bundle.denoiser_path
        try:
            self._device = _device(provider)
            self._graph = TorchGraph(self._path, self._device)
        except RuntimeError as error:
            if not _is_for_memory(error):
                raise
            raise GpuFull(
                f"no picture can be painted on the GPU: {first_line(error)}: free its memory, or "
                'set generation.provider = "cpu"'
            ) from error
        check_ends(self._path, card, self._graph.inputs, self._graph.outputs)

    @property
    def provider(self) -> str:
        """Return `torch-cuda` or `torch-cpu`."""
        return TORCH_CUDA if self._device.type == "cuda" else TORCH_CPU

    def run(self, x: Floats, sigma: Floats, condition: Floats) -> Floats:
        """Return the pictures beneath the noise (see `Denoiser`).

        Raises:
            PaintingError: torch failed, or the graph gave another shape.
        """
        try:
            denoised = self._run(x, sigma, condition)
        except FAILURES as error:
            reason = first_line(error)
        else:
            if denoised.shape == x.shape:
                return denoised
            reason = f"it made {list(denoised.shape)} of {list(x.shape)}"
        # not inside the handler: the cause's frames would hold the GPU's memory that was short
        raise PaintingError(f"{self._path} failed: {reason}")

    @torch.inference_mode()
    def _run(self, x: Floats, sigma: Floats, condition: Floats) -> Floats:
        pictures = self._placed(x).contiguous(memory_format=torch.channels_last)
        inputs = {
            "x": pictures,
            "sigma": self._placed(sigma),
            "condition": self._placed(condition),
        }
        # On a CPU oneDNN would be quicker, but it writes its code as it goes, which the worker's
        # unit forbids (MemoryDenyWriteExecute), and then it fails.
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
            denoised = self._graph(inputs, "denoised").cpu().numpy()
        return np.ascontiguousarray(denoised, np.float32)

    def _placed(self, values: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._device)


def _device(provider: str) -> torch.device:
    """Return where to compute.

    Raises:
        ProviderMissing: CUDA was asked for and does not run.
    """
    reason = "" if provider == "cpu" else _why_no_cuda()
    if reason and provider == "cuda":
        raise ProviderMissing(
            f"generation.provider is 'cuda', but torch cannot compute there ({reason}): mend "
            'driver or torch, or set generation.provider = "auto"'
        )
    if reason:
        log.info("torch computes on the CPU: %s", reason)
    return torch.device("cpu" if reason or provider == "cpu" else "cuda")


def _why_no_cuda() -> str:
    """Return why CUDA computes nothing; empty where it just has."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA"
    try:
        torch.ones(1, device="cuda").sum().item()
    except RuntimeError as error:
        if _is_for_memory(error):
            raise
        return first_line(error)
    return ""


def _is_for_memory(error: RuntimeError) -> bool:
    """Return whether a GPU was full; so full that CUDA cannot begin is another class's error."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
