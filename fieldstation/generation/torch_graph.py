"""Computes an ONNX graph in torch, in fp32: the operators that the trainer's generators have.

Nothing else is read: a graph with another operator is refused, and what a known one's attributes
say beyond what is read here the golden check notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from fieldstation.bundle import BundleError

FLOAT = onnx.TensorProto.FLOAT
FAILURES = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)
"""Memory or a GPU that is gone; of a graph whose parts do not fit each other any of them"""

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]
"""inputs, attributes -> a value, of a Split all"""
Shape = tuple[int | str | None, ...]
"""A name, or nothing, stands for an open dimension"""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation."""

    operator: str
    inputs: tuple[str, ...]
    """Empty where an optional one is not given"""
    outputs: tuple[str, ...]
    attributes: Attributes
    last_read: tuple[str, ...] = ()
    """Values that no later node wants"""


class TorchGraph:
    """An ONNX graph whose weights lie on a device.

    Shapes and other whole numbers are Python lists, so that a GPU is never asked for them.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Read a graph, and compute what depends on no input: weights that are stored as fp16.

        Raises:
            BundleError: it is damaged, or has an operator that is not known here.
        """
        graph = _load(path).graph
        nodes = [_read_node(node) for node in graph.node]
        if strange := sorted({node.operator for node in nodes} - OPERATORS.keys()):
            raise BundleError(
                f"{path} has {', '.join(strange)}, which the torch runtime cannot compute: set "
                'generation.runtime = "onnxruntime"'
            )
        self.inputs = {value.name: _shape(value) for value in graph.input if _is_float(value)}
        self.outputs = {value.name: _shape(value) for value in graph.output if _is_float(value)}
        try:
            values = _constants(graph.initializer, nodes)
            nodes = _with_known_computed(nodes, values)
        except FAILURES as error:
            raise BundleError(
                f"{path} cannot be opened: {first_line(error)}: fetch it again"
            ) from error
        self._nodes = _with_last_reads(nodes, values.keys() | self.outputs.keys())
        self._constants = {name: _placed(value, device) for name, value in values.items()}

    def __call__(self, inputs: Mapping[str, Tensor], output: str) -> Tensor:
        """Return an output.

        Raises:
            FAILURES: these inputs cannot be computed.
        """
        values = {**self._constants, **inputs}
        for node in self._nodes:
            _compute(node, values)
            for name in node.last_read:
                del values[name]
        computed: Tensor = values[output]
        return computed


def _load(path: Path) -> Any:
    try:
        onnx.checker.check_model(path)
        return onnx.load(path)
    except (OSError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BundleError(f"{path} cannot be opened: {reason}: fetch it again") from error


def _read_node(node: Any) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Node(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == FLOAT)


def _shape(value: Any) -> Shape:
    return tuple(d.dim_param or d.dim_value or None for d in value.type.tensor_type.shape.dim)


def _constants(tensors: Iterable[Any], nodes: Iterable[Node]) -> dict[str, Any]:
    """Return floats as tensors, and what says how large something is as (lists of) numbers."""
    sizes = {name for node in nodes if node.operator == "Resize" for name in node.inputs[1:]}
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    return {
        name: torch.from_numpy(array.copy())
        if array.dtype.kind == "f" and name not in sizes
        else array.tolist()
        for name, array in arrays.items()
    }


def _placed(value: Any, device: torch.device) -> Any:
    """Return a constant on the device, filters in the order in which pictures are."""
    if not isinstance(value, Tensor):
        return value
    layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
    return value.to(device, memory_format=layout)


def _with_known_computed(nodes: Iterable[Node], values: dict[str, Any]) -> list[Node]:
    """Compute the nodes that need constants only, drop what they alone wanted; return the rest."""
    left = []
    for node in nodes:
        if all(name in values for name in node.inputs):
            _compute(node, values)
        else:
            left.append(node)
    wanted = {name for node in left for name in node.inputs}
    for name in values.keys() - wanted:
        del values[name]
    return left


def _with_last_reads(nodes: Sequence[Node], kept: Iterable[str]) -> list[Node]:
    """Return nodes that know which values may go after them."""
    seen = {"", *kept}
    out = []
    for node in reversed(nodes):
        last = {*node.inputs, *node.outputs} - seen
        seen |= last
        out.append(replace(node, last_read=tuple(last)))
    return out[::-1]


def _compute(node: Node, values: dict[str, Any]) -> None:
    inputs = [values[name] if name else None for name in node.inputs]
    computed = OPERATORS[node.operator](inputs, node.attributes)
    if node.operator != "Split":
        computed = [computed]
    values.update(zip(node.outputs, computed, strict=True))


def _cast(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes["to"] != FLOAT:
        raise ValueError(f"Cast to {attributes['to']}; only to {FLOAT}, float32")
    cast: Tensor = inputs[0].float()
    return cast


def _convolved(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, *bias = inputs
    return functional.conv2d(
        x,
        weight,
        bias[0] if bias else None,
        attributes.get("strides", [1, 1]),
        _padding(attributes),
        attributes.get("dilations", [1, 1]),
        attributes.get("group", 1),
    )


def _averaged(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return functional.avg_pool2d(
        inputs[0],
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        _padding(attributes),
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )


def _padding(attributes: Attributes) -> list[int]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"padding {dict(attributes)}; only the same on both sides")
    return [top, left]


def _product(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    """Return alpha A B + beta C, either transposed where that is said."""
    a = inputs[0].t() if attributes.get("transA") else inputs[0]
    b = inputs[1].t() if attributes.get("transB") else inputs[1]
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return torch.addmm(inputs[2], a, b, beta=beta, alpha=alpha)


def _normed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    """Norm every channel for itself, as groups of one: torch's instance norm copies its weights."""
    x, weight, bias = inputs
    return functional.group_norm(x, x.shape[1], weight, bias, attributes.get("epsilon", 1e-5))


def _reshaped(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs
    if not attributes.get("allowzero"):
        shape = [n or x.shape[axis] for axis, n in enumerate(shape)]
    reshaped: Tensor = x.reshape(shape)
    return reshaped


def _resized(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    said = attributes.get("mode", b"nearest"), attributes.get("nearest_mode")
    if said != (b"nearest", b"floor"):
        raise ValueError(f"Resize by {said}; only nearest, floor")
    return functional.interpolate(inputs[0], scale_factor=inputs[2][2:], mode="nearest")


def _shuffled(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    if attributes.get("mode", b"DCR") != b"CRD":
        raise ValueError("DepthToSpace in the order DCR; only CRD")
    return functional.pixel_shuffle(inputs[0], attributes["blocksize"])


def _split(inputs: Sequence[Any], attributes: Attributes) -> Sequence[Tensor]:
    x, axis = inputs[0], attributes.get("axis", 0)
    size: Any = inputs[1] if len(inputs) > 1 else -(-x.shape[axis] // attributes["num_outputs"])
    parts: Sequence[Tensor] = x.split(size, dim=axis)
    return parts


def _summed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    summed: Tensor = inputs[0].sum(dim=inputs[1], keepdim=bool(attributes.get("keepdims", 1)))
    return summed


def _transposed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    transposed: Tensor = inputs[0].permute(attributes["perm"])
    return transposed


def _unsqueezed(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, axes = inputs
    n = x.dim() + len(axes)
    for axis in sorted(axis % n for axis in axes):
        x = x.unsqueeze(axis)
    unsqueezed: Tensor = x
    return unsqueezed


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": _averaged,
    "Cast": _cast,
    "Concat": lambda i, a: torch.cat(list(i), dim=a["axis"]),
    "Conv": _convolved,
    "Cos": lambda i, _: torch.cos(i[0]),
    "DepthToSpace": _shuffled,
    "Div": lambda i, _: i[0] / i[1],
    "Gemm": _product,
    "Greater": lambda i, _: i[0] > i[1],
    "InstanceNormalization": _normed,
    "Log": lambda i, _: torch.log(i[0]),
    "MatMul": lambda i, _: torch.matmul(i[0], i[1]),
    "Mul": lambda i, _: i[0] * i[1],
    "Pow": lambda i, _: torch.pow(i[0], i[1]),
    "Reciprocal": lambda i, _: torch.reciprocal(i[0]),
    "ReduceSum": _summed,
    "Reshape": _reshaped,
    "Resize": _resized,
    "Shape": lambda i, _: list(i[0].shape),
    "Sigmoid": lambda i, _: torch.sigmoid(i[0]),
    "Sin": lambda i, _: torch.sin(i[0]),
    "Softmax": lambda i, a: torch.softmax(i[0], dim=a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda i, _: torch.sqrt(i[0]),
    "Sub": lambda i, _: i[0] - i[1],
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}


def first_line(error: Exception) -> str:
    """Return a failure's kind and the first line of its text: torch's have a dozen."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
