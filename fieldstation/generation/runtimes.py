"""Opens a bundle's denoiser on the runtime that was chosen; the other need not be installed."""

from __future__ import annotations

import os

from fieldstation.bundle import Bundle
from fieldstation.generation.denoiser import Denoiser, OnnxDenoiser
from fieldstation.onnx_session import ProviderMissing


def open_denoiser(
    bundle: Bundle, runtime: str = "onnxruntime", provider: str = "auto", n_threads: int = 1
) -> Denoiser:
    """Return a bundle's denoiser, opened.

    Args:
        bundle: has a generator.
        runtime: `onnxruntime` or `torch`.
        provider: `cpu`, `cuda`, or `auto`: CUDA where it runs and the CPU elsewhere.
        n_threads: on the CPU.

    Raises:
        ProviderMissing: the runtime is not installed, or CUDA was asked for and does not run.
        BundleError: there is no generator, or its graph is damaged, not what the card says, or
            nothing that this runtime computes.
    """
    if runtime == "torch":
        return _in_torch(bundle, provider, n_threads)
    return OnnxDenoiser(bundle, provider, n_threads)


def _in_torch(bundle: Bundle, provider: str, n_threads: int) -> Denoiser:
    # Read when torch is imported. Its threads would wait for each other in a busy loop, which takes
    # all that others leave to an idle process: two of them were 15 times as slow as one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from fieldstation.generation.torch_denoiser import TorchDenoiser
    except (ImportError, OSError) as error:  # OSError: one of torch's libraries is not there
        raise ProviderMissing(
            f"generation.runtime is 'torch', but it cannot be imported ({error}): "
            "pip install 'fieldstation[train]', or set generation.runtime = \"onnxruntime\""
        ) from error
    return TorchDenoiser(bundle, provider, n_threads)
