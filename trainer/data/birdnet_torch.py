"""BirdNET V2.4 in torch, many windows at once: a teacher that keeps up with a GPU.

The graph is the one that `bench/birdnet_onnx.py` makes of the TFLite model (CC BY-NC-SA 4.0; Kahl
et al. 2021). Its front end, the first two convolutions over the waveform, is computed in fp32
whatever the rest is: exponents of 0.19 and 0.23 behind it magnify what is near zero.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainer.data.recordings import DataError
from trainer.data.teacher import (
    BIRDNET_RATE,
    BIRDNET_SAMPLES,
    EMBEDDING_NAME,
    HOP_S,
    identity_of,
    names_in,
)
from trainer.data.windows import WindowGrid

LABELS = "labels.txt"
"""Beside the graph, as the converter leaves it"""
BATCHES = {"cuda": 128}
BATCH, HALF_BATCH = 8, 32
"""Elsewhere, in fp32 (25 ms a window on a core; 39 ms in batches of 32) and in half (12 ms)"""
HALF = {"cuda": torch.float16, "cpu": torch.bfloat16}
"""Arithmetic of the layers behind the front end, where half precision is wanted"""

Node = tuple[str, list[str], str, "Attributes"]
"""Operator, inputs, output, attributes"""

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Tensor]


class BirdNetGraph(nn.Module):
    """Waveform float32 [batch, 144000] -> logits [batch, 6522], embedding [batch, 1024]."""

    def __init__(self, path: Path) -> None:
        """Read a graph.

        Raises:
            DataError: it cannot be read, or holds an operator that BirdNET has not.
        """
        import onnx

        super().__init__()
        try:
            graph = onnx.load(path).graph
        except Exception as error:
            raise DataError(f"{path} cannot be read as ONNX: {error}") from error
        strange = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if strange:
            raise DataError(f"{path} is no BirdNET V2.4: it has {', '.join(strange)}")
        self._nodes = with_silu([_read_node(node) for node in graph.node])
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._whole: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        for tensor in graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype.kind == "f":
                self._places[tensor.name] = f"constant{len(self._places)}"
                as_tensor = torch.from_numpy(values.astype(np.float32))
                self.register_buffer(self._places[tensor.name], as_tensor, persistent=False)
            else:
                self._whole[tensor.name] = values.tolist()

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding; see the class."""
        values: dict[str, Any] = {name: getattr(self, at) for name, at in self._places.items()}
        values |= self._whole | {self._input: waveform}
        for operator, inputs, output, attributes in self._nodes:
            values[output] = OPERATORS[operator]([values[i] for i in inputs], attributes)
        embedding = values[EMBEDDING_OUTPUT].flatten(1)
        return values[self._output].float(), embedding.float()

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        """Return weights [1024, 6522] and offsets [6522] between embedding and logits."""
        by_output = {output: inputs for _, inputs, output, _ in self._nodes}
        product, offset = by_output[self._output]
        weight = by_output[product][1]
        return getattr(self, self._places[weight]), getattr(self, self._places[offset])


EMBEDDING_OUTPUT = f"model/{EMBEDDING_NAME}"


class BirdNetTorch:
    """BirdNET V2.4 as a `Teacher`, and for whole batches that never leave the device."""

    sample_rate = BIRDNET_RATE
    grid = WindowGrid(BIRDNET_SAMPLES, round(HOP_S * BIRDNET_RATE))

    def __init__(self, path: Path, device: torch.device, is_half: bool = False) -> None:
        """Open a converted graph with its labels.txt beside it.

        Args:
            is_half: whether `hear_batch` computes in half precision; `hear`, whose answers are
                kept, does on a GPU.

        Raises:
            DataError: either cannot be read.
        """
        self.device = device
        self.graph = BirdNetGraph(path).to(device).eval()
        self.graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._half = (
            with_half_weights(self.graph, HALF.get(device.type, torch.bfloat16))
            if is_half
            else None
        )
        self.identity = identity_of(path)
        try:
            self.names = names_in((path.parent / LABELS).read_bytes())
        except OSError as error:
            raise DataError(f"{path.parent / LABELS} cannot be read: {error.strerror}") from error

    @torch.inference_mode()
    def hear(self, windows: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return logits [windows, 6522] (before the sigmoid) and embeddings [windows, 1024]."""
        logits, embeddings = self._heard(torch.from_numpy(windows), self.device.type == "cuda")
        return logits.cpu().numpy(), embeddings.cpu().numpy()

    def hear_batch(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embeddings of windows on the device."""
        return self._heard(windows, self._half is not None)

    def _heard(self, windows: Tensor, is_half: bool) -> tuple[Tensor, Tensor]:
        kind = self.device.type
        graph = self._half if is_half and self._half else self.graph
        n = BATCHES.get(kind, HALF_BATCH if is_half else BATCH)
        with torch.autocast(kind, HALF.get(kind), enabled=is_half):
            heard = [graph(batch.to(self.device)) for batch in torch.split(windows, n)]
        logits, embeddings = zip(*heard, strict=True)
        return torch.cat(logits), torch.cat(embeddings)


def with_half_weights(graph: BirdNetGraph, half: torch.dtype) -> BirdNetGraph:
    """Return a graph whose layers behind the front end need no rounding at every call."""
    halved = copy.deepcopy(graph)
    for name, weight in graph.named_buffers():
        if weight.dim() in (2, 4):
            layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
            setattr(halved, name, weight.to(half, memory_format=layout))
    return halved


def with_silu(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes with each x · sigmoid(x) as one: a third of the time was spent on the two."""
    gates = {output: inputs[0] for name, inputs, output, _ in nodes if name == "Sigmoid"}
    readers = Counter(name for _, inputs, _, _ in nodes for name in inputs)
    out: list[Node] = []
    for name, inputs, output, attributes in nodes:
        gate = next((i for i in inputs if i in gates and gates[i] in inputs), None)
        if name != "Mul" or gate is None or readers[gate] > 1:
            out.append((name, inputs, output, attributes))
            continue
        out = [node for node in out if node[2] != gate]
        out.append(("Silu", [gates[gate]], output, {}))
    return out


def _read_node(node: Any) -> Node:
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return node.op_type, list(node.input), node.output[0], attributes


def _convolved(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    """Convolve; over a waveform as one product of frames and filters, in fp32."""
    x, weight, *bias = inputs
    stride = attributes.get("strides", [1, 1])
    if x.dim() == 3:
        with torch.autocast(x.device.type, enabled=False):
            frames = x[:, 0].unfold(1, weight.shape[2], stride[0])
            return torch.matmul(frames, weight[:, 0].T).transpose(1, 2)
    x, padding = _padded(x, attributes, weight.shape[2:], stride)
    offset = bias[0] if bias else None
    group = attributes.get("group", 1)
    return functional.conv2d(x, weight, offset, stride, padding, groups=group)


def _padded(
    x: Tensor, attributes: Attributes, kernel: Sequence[int], stride: Sequence[int], fill: float = 0
) -> tuple[Tensor, list[int]]:
    """Return a map and the padding that is left to do; what is one-sided is done here."""
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", b"NOTSET") == b"SAME_UPPER":
        sides = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)
        ]
        top, left = sides[0] // 2, sides[1] // 2
        bottom, right = sides[0] - top, sides[1] - left
    if (top, left) == (bottom, right):
        return x, [top, left]
    return functional.pad(x, (left, right, top, bottom), value=fill), [0, 0]


def _pooled_most(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel, stride = attributes["kernel_shape"], attributes["strides"]
    x, padding = _padded(inputs[0], attributes, kernel, stride, fill=float("-inf"))
    return functional.max_pool2d(x, kernel, stride, padding)


def _pooled_mean(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel, stride = attributes["kernel_shape"], attributes["strides"]
    x, padding = _padded(inputs[0], attributes, kernel, stride)
    return functional.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)


def _with_border(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    n = len(inputs[1]) // 2
    sides = [side for axis in reversed(range(n)) for side in (inputs[1][axis], inputs[1][axis + n])]
    padded: Tensor = functional.pad(inputs[0], sides)
    return padded


def _unsqueezed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x: Tensor = inputs[0]
    for axis in sorted(inputs[1]):
        x = x.unsqueeze(axis)
    return x


def _squeezed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    squeezed: Tensor = inputs[0].squeeze(tuple(inputs[1]))
    return squeezed


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": _pooled_mean,
    "Concat": lambda i, a: torch.cat(list(i), dim=a["axis"]),
    "Conv": _convolved,
    "Div": lambda i, _: i[0] / i[1],
    "GlobalAveragePool": lambda i, _: i[0].mean(dim=(2, 3), keepdim=True),
    "MatMul": lambda i, _: torch.matmul(i[0], i[1]),
    "MaxPool": _pooled_most,
    "Mul": lambda i, _: i[0] * i[1],
    "Pad": _with_border,
    "Pow": lambda i, _: torch.pow(i[0], i[1]),
    "ReduceMax": lambda i, a: i[0].amax(dim=a["axes"], keepdim=bool(a["keepdims"])),
    "ReduceMin": lambda i, a: i[0].amin(dim=a["axes"], keepdim=bool(a["keepdims"])),
    "Relu": lambda i, _: torch.relu(i[0]),
    "Reshape": lambda i, _: i[0].reshape(i[1]),
    "Silu": lambda i, _: functional.silu(i[0]),
    "Sigmoid": lambda i, _: torch.sigmoid(i[0]),
    "Squeeze": _squeezed,
    "Sub": lambda i, _: i[0] - i[1],
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
    "Unsqueeze": _unsqueezed,
}
