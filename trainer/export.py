"""From a trained network to the ONNX graph that a station runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trainer.encoder.mel import LogMel
from trainer.encoder.running import Floats, cpu_session, run_logits

OPSET = 18
HALF_FROM = 4096
"""Smaller tensors stay fp32: they weigh nothing, and a batch norm's variance needs the range"""
OUTPUTS = ("logits", "embedding", "mel", "frame_logits")
"""In the order in which a network gives them; the last not every network has"""


class ExportError(ValueError):
    """The graph does not compute what the network computes."""


def export_encoder(network: nn.Module, samples_per_window: int, path: Path) -> None:
    """Write a network as ONNX, waveform [batch, samples] -> those of `OUTPUTS` it has; fp32."""
    waveform = torch.randn(2, samples_per_window) * 0.1
    with torch.inference_mode():
        outputs = OUTPUTS[: len(network.cpu().float().eval()(waveform))]
    export(network, {"waveform": waveform}, outputs, path)


def export(
    network: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], path: Path
) -> None:
    """Write a network as ONNX, fp32, any batch size; the same weights give the same bytes.

    Args:
        example: its inputs by name, in order, each a batch of two: a batch of one would be
            frozen into the graph without a word.
        outputs: their names.
    """
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.cpu().float().eval(),
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes={name: {0: batch} for name in example},
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    forget_traces(path)


def forget_traces(path: Path) -> None:
    """Take out of a graph where in which file each node comes from.

    Exported from another folder, the same weights would have another hash, and a bundle would
    tell how its maker's disk is laid out.
    """
    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    onnx.save(model, path)


def store_half(path: Path, front_end: LogMel | None = None) -> None:
    """Halve a graph's file: keep its large weights as fp16, cast to fp32 when it is loaded.

    The arithmetic stays fp32, and the front end's matrices keep fp32 values: power reaches
    262,144, and a filter bank in fp16 has a noise floor that one hears.
    """
    model = onnx.load(path)
    fixed = [buffer.numpy() for buffer in front_end.cpu().buffers()] if front_end else []
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < HALF_FROM:
            continue
        if any(_is_layout_of(values, matrix) for matrix in fixed):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    onnx.save(model, path)


def parity(network: nn.Module, path: Path, waveforms: Floats) -> float:
    """Return the largest |Δlogit| between network and graph, for batches of 1 and of all.

    Raises:
        ExportError: an output is not finite, or the graph refuses one of the batches.
    """
    session = cpu_session(path)
    with torch.inference_mode():
        expected = network.cpu().eval()(torch.from_numpy(waveforms))[0].numpy()
    try:
        whole = run_logits(session, waveforms)
        single = run_logits(session, waveforms[:1])
    except Exception as error:
        raise ExportError(f"{path} does not run: {error}") from error
    if not np.isfinite(whole).all():
        raise ExportError(f"{path} gives logits that are not finite")
    return float(max(abs(whole - expected).max(), abs(single - expected[:1]).max()))


def _is_layout_of(values: NDArray[Any], matrix: NDArray[Any]) -> bool:
    """Return whether a stored tensor is a matrix, as it is or transposed."""
    return values.size == matrix.size and (
        np.array_equal(values.ravel(), matrix.ravel())
        or (matrix.ndim == 2 and np.array_equal(values, matrix.T))
    )
