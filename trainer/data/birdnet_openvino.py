"""BirdNET V2.4 by OpenVINO in bfloat16: a teacher for a processor that has no GPU beside it.

0.6 of the time of torch's bfloat16 (`bench/teacher.py`, on a core with AMX), for OpenVINO joins
each convolution with what follows it. Its front end stays in fp32, as in
`trainer.data.birdnet_torch`: rounded, it moved logits by up to 8.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldstation.errors import MendableError
from trainer.data.birdnet_torch import EMBEDDING_OUTPUT
from trainer.data.recordings import DataError

SPECTROGRAMS = "model/concatenate/concat"
"""Last tensor of the front end: both spectrograms, compressed"""
BATCH = 16
"""Windows at once: as quick as 32, a fifth quicker than 8"""
BROKEN = (ImportError, AttributeError, SyntaxError, OSError, RuntimeError)
"""What half an installation raises: of missing libraries, of missing and of torn files"""


class OpenVinoError(MendableError):
    """OpenVINO is not installed, or cannot be used; the text says why."""


class FusedBirdNet:
    """Waveform float32 [batch, 144000] -> logits [batch, 6522], embedding [batch, 1024]."""

    def __init__(self, path: Path, n_threads: int) -> None:
        """Compile a converted graph for this processor, which takes some seconds.

        Raises:
            DataError: it cannot be read, or is no BirdNET V2.4.
            OpenVinoError: OpenVINO is not installed, or cannot be used.
        """
        core = _core()
        front, rest = _parted(core, path)
        self._front = _request(core, front, "f32", n_threads)
        self._rest = _request(core, rest, "bf16", n_threads)

    def hear_batch(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embeddings; see the class."""
        heard = [self._heard(batch.numpy()) for batch in torch.split(windows, BATCH)]
        logits, embeddings = zip(*heard, strict=True)
        return torch.cat(logits), torch.cat(embeddings)

    def _heard(self, windows: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Answer about up to `BATCH` windows: the compiled graph's batches are all of one size."""
        n = len(windows)
        whole = windows if n == BATCH else np.resize(windows, (BATCH, windows.shape[1]))
        spectrograms = self._front.infer({0: whole}, share_outputs=True)[0]
        answer = self._rest.infer({0: spectrograms})
        logits, embedding = torch.from_numpy(answer[0]), torch.from_numpy(answer[1])
        return logits[:n], embedding.flatten(1)[:n]


def import_openvino() -> Any:
    """Import OpenVINO without what tells its maker, over the network, of every import."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _core() -> Any:
    """Return what reads graphs and compiles them."""
    try:
        openvino = import_openvino()
        readable = openvino.frontend.FrontEndManager().get_available_front_ends()
        core = openvino.Core()
    except BROKEN as error:
        raise OpenVinoError(_in_line(error)) from error
    if "onnx" not in readable:
        raise OpenVinoError("libopenvino_onnx_frontend is missing: install openvino anew")
    return core


def _parted(core: Any, path: Path) -> tuple[Any, Any]:
    """Return the graph's front end and the rest of it, which are computed differently."""
    openvino = import_openvino()
    try:
        first, second = core.read_model(path), core.read_model(path)
        for graph in (first, second):
            graph.reshape([BATCH, graph.inputs[0].get_partial_shape()[1]])
        front = openvino.Model([_output(first, SPECTROGRAMS)], first.get_parameters(), "front")
        outputs = [second.outputs[0].get_node().input_value(0), _output(second, EMBEDDING_OUTPUT)]
        border = _output(second, SPECTROGRAMS)
    except (RuntimeError, LookupError) as error:
        raise DataError(
            f"{path} is no BirdNET V2.4 that OpenVINO can read: {_in_line(error)}"
        ) from error
    begin = openvino.opset13.parameter(border.get_partial_shape(), np.float32)
    for reader in border.get_target_inputs():
        reader.replace_source_output(begin.output(0))
    return front, openvino.Model(outputs, [begin], "rest")


def _output(graph: Any, name: str) -> Any:
    """Return the tensor of a graph that goes by a name.

    Raises:
        LookupError: there is none.
    """
    tensors = (output for node in graph.get_ops() for output in node.outputs())
    for tensor in tensors:
        if name in tensor.get_names():
            return tensor
    raise LookupError(f"it has no {name}")


def _request(core: Any, graph: Any, precision: str, n_threads: int) -> Any:
    settings = {
        "INFERENCE_NUM_THREADS": n_threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        return core.compile_model(graph, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise OpenVinoError(_in_line(error)) from error


def _in_line(error: Exception) -> str:
    """Return what an error says, in one line: OpenVINO's say it in several."""
    return " ".join(str(error).split())
