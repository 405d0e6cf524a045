"""Opens a bundle's graphs on onnxruntime: which provider, how many threads, what its errors are."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fieldstation.bundle import BundleError
from fieldstation.errors import MendableError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class ProviderMissing(MendableError):
    """Nothing is installed that can run a graph as asked."""


def import_runtime() -> Any:
    """Import onnxruntime when it is first needed: `--help` need not pay for it.

    From 1.29 on it tells Microsoft which graphs are run on which machine, under an id that it
    keeps in the home folder, unless this variable is there before the import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderMissing(
            f"onnxruntime cannot be imported ({error}): install exactly one of "
            "fieldstation[cpu] and fieldstation[gpu]"
        ) from error
    return onnxruntime


def open_session(path: Path, provider: str, n_threads: int, setting: str = "model.provider") -> Any:
    """Return a graph, open.

    Args:
        provider: `cpu`, `cuda`, or `auto`: CUDA where it runs and the CPU elsewhere.
        n_threads: on the CPU.
        setting: where the provider was chosen, for the error.

    Raises:
        ProviderMissing: onnxruntime is not installed, or CUDA was asked for and does not run.
        BundleError: the graph is damaged.
    """
    runtime = import_runtime()
    try:
        session = runtime.InferenceSession(
            path,
            sess_options=_options(runtime, n_threads),
            providers=_providers(provider, runtime, setting),
        )
    except runtime_errors() as error:
        raise BundleError(f"{path} cannot be opened: {one_line(error)}: fetch it again") from error
    if provider == "cuda" and session.get_providers()[0] != CUDA:
        raise ProviderMissing(
            f"{setting} is 'cuda', but onnxruntime could not start CUDA: see its message "
            f'above, mend driver or CUDA libraries, or set {setting} = "auto"'
        )
    return session


def _providers(provider: str, runtime: Any, setting: str) -> list[Any]:
    """Return what to ask onnxruntime for, best first."""
    available = runtime.get_available_providers()
    if provider == "cuda" and CUDA not in available:
        raise ProviderMissing(
            f"{setting} is 'cuda', but the installed onnxruntime has no CUDA: uninstall "
            f'onnxruntime and install fieldstation[gpu], or set {setting} = "auto"'
        )
    if provider == "cpu" or CUDA not in available:
        return [CPU]
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it lacks
        runtime.preload_dlls()  # finds CUDA in the nvidia-… wheels, which no search path holds
    # TF32 keeps 10 bits of mantissa, which costs the mel front end 3.7 dB in the noise floor, and
    # a picture its likeness to the same seed's on a CPU.
    return [(CUDA, {"use_tf32": 0}), CPU]


def _options(runtime: Any, n_threads: int) -> Any:
    """Return session options for a process that mostly waits."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    # Spinning threads answer microseconds sooner and burn a core between windows.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: warnings on a graph are for who exported it
    return options


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return onnxruntime's exceptions, which have no base of their own."""
    state = import_runtime().capi.onnxruntime_pybind11_state
    kinds = (kind for kind in vars(state).values() if isinstance(kind, type))
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def fits(shape: Sequence[Any], expected: Sequence[int | None]) -> bool:
    """Return whether a graph's shape can be the expected one; open dimensions are not numbers."""
    return len(shape) == len(expected) and all(
        want is None or not isinstance(have, int) or have == want
        for have, want in zip(shape, expected, strict=True)
    )


def one_line(error: Exception) -> str:
    """Return onnxruntime's message without its code and in one line."""
    return " ".join(str(error).split(" : ")[-1].split())
