"""Run an encoder's graph with onnxruntime; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def cpu_session(path: Path, n_threads: int = 0) -> Any:
    """Return an onnxruntime session on the CPU; 0 threads leaves the number to it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_logits(session: Any, waveforms: Floats, output: str = "logits") -> Floats:
    """Return a session's logits float32 [batch, labels]."""
    logits: Floats = session.run([output], {session.get_inputs()[0].name: waveforms})[0]
    return logits
