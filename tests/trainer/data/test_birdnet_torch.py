"""The torch teacher computes what its graph says: beside onnxruntime, on a graph of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'cpu'")

from trainer.data.birdnet_openvino import SPECTROGRAMS  # noqa: E402
from trainer.data.birdnet_torch import (  # noqa: E402
    EMBEDDING_OUTPUT,
    OPERATORS,
    BirdNetGraph,
    BirdNetTorch,
)
from trainer.data.recordings import DataError  # noqa: E402

N_SAMPLES = 4_000
N_NAMES = 5


def constants() -> dict[str, np.ndarray]:
    """Return weights as BirdNET's graph has them, small."""
    draw = np.random.default_rng(3)

    def some(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) * 0.3).astype(np.float32)

    return {
        "filters": some(8, 1, 200),
        "axis1": np.array([1], np.int64),
        "axis3": np.array([3], np.int64),
        "half": np.array(0.5, np.float32),
        "floor": np.array(1e-6, np.float32),
        "border": np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
        "stem": some(6, 1, 3, 3),
        "stem_offset": some(6),
        "depthwise": some(12, 1, 3, 3),
        "flat": np.array([-1, 12, 1, 1], np.int64),
        "gate": some(12, 12, 1, 1),
        "places": np.array([2, 3], np.int64),
        "head": some(12, N_NAMES),
        "head_offset": some(N_NAMES),
    }


def nodes() -> list[Any]:
    """Return a front end, a stem, a gated block and a head: every operator of BirdNET once."""
    node = onnx.helper.make_node
    gated = "gated"
    return [
        node("Unsqueeze", ["wave", "axis1"], ["row"]),
        node("ReduceMin", ["row"], ["least"], axes=[2], keepdims=1),
        node("ReduceMax", ["row"], ["most"], axes=[2], keepdims=1),
        node("Sub", ["most", "least"], ["range"]),
        node("Add", ["range", "floor"], ["floored"]),
        node("Conv", ["row", "filters"], ["raw"], strides=[100]),
        node("Div", ["raw", "floored"], ["bands"]),
        node("Mul", ["bands", "bands"], ["power"]),
        node("Pow", ["power", "half"], ["compressed"]),
        node("Transpose", ["compressed"], ["turned"], perm=[0, 2, 1]),
        node("Unsqueeze", ["turned", "axis3"], [SPECTROGRAMS]),
        node("Transpose", [SPECTROGRAMS], ["map"], perm=[0, 3, 2, 1]),
        node("Conv", ["map", "stem", "stem_offset"], ["stemmed"], auto_pad="SAME_UPPER",
             strides=[1, 2]),
        node("Relu", ["stemmed"], ["lit"]),
        node("MaxPool", ["lit"], ["peaks"], kernel_shape=[1, 2], strides=[1, 2],
             auto_pad="SAME_UPPER"),
        node("AveragePool", ["lit"], ["means"], kernel_shape=[1, 2], strides=[1, 2],
             auto_pad="SAME_UPPER"),
        node("Concat", ["peaks", "means"], ["joined"], axis=1),
        node("Pad", ["joined", "border"], ["padded"]),
        node("Conv", ["padded", "depthwise"], ["deep"], group=12, pads=[0, 0, 0, 1],
             strides=[2, 2]),
        node("GlobalAveragePool", ["deep"], ["pooled"]),
        node("Squeeze", ["pooled", "places"], ["vector"]),
        node("Reshape", ["vector", "flat"], ["column"]),
        node("Conv", ["column", "gate"], ["asked"]),
        node("Sigmoid", ["asked"], [gated]),
        node("Mul", ["deep", gated], ["kept"]),
        node("Sigmoid", ["kept"], ["opened"]),
        node("Mul", ["opened", "kept"], ["smooth"]),
        node("GlobalAveragePool", ["smooth"], [EMBEDDING_OUTPUT]),
        node("Squeeze", [EMBEDDING_OUTPUT, "places"], ["features"]),
        node("MatMul", ["features", "head"], ["scores"]),
        node("Add", ["scores", "head_offset"], ["logits"]),
    ]  # fmt: skip


def write_graph(folder: Path, made: list[Any] | None = None) -> Path:
    """Write the graph and its labels; return the graph's path."""
    make = onnx.helper.make_tensor_value_info
    held = [onnx.numpy_helper.from_array(a, name) for name, a in constants().items()]
    graph = onnx.helper.make_graph(
        made or nodes(),
        "small",
        [make("wave", onnx.TensorProto.FLOAT, ["n", N_SAMPLES])],
        [make("logits", onnx.TensorProto.FLOAT, ["n", N_NAMES])],
        held,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = folder / "birdnet.onnx"
    onnx.save(model, path)
    lines = [f"Genus species{i}_Some Bird {i}" for i in range(N_NAMES)]
    (folder / "labels.txt").write_text("\n".join(lines), encoding="utf-8")
    return path


def test_every_operator_is_as_onnxruntime_has_it(tmp_path: Path) -> None:
    """Logits of three windows, and the embedding behind them."""
    path = write_graph(tmp_path)
    assert {node.op_type for node in nodes()} == set(OPERATORS) - {"Silu"}
    waves = np.random.default_rng(1).standard_normal((3, N_SAMPLES)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["logits"], {"wave": waves})
    logits, embedding = BirdNetTorch(path, torch.device("cpu")).hear(waves)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    weight, offset = BirdNetGraph(path).head
    np.testing.assert_allclose(embedding @ weight.numpy() + offset.numpy(), wanted, atol=1e-4)


def test_a_smooth_gate_is_one_operator_and_half_precision_is_near(tmp_path: Path) -> None:
    """x · sigmoid(x) is fused, another gate is not; batches in half precision differ a little."""
    path = write_graph(tmp_path)
    names = [name for name, *_ in BirdNetGraph(path)._nodes]
    assert (names.count("Silu"), names.count("Sigmoid")) == (1, 1)
    waves = torch.from_numpy(
        np.random.default_rng(1).standard_normal((20, N_SAMPLES)).astype(np.float32)
    )
    exact, _ = BirdNetTorch(path, torch.device("cpu")).hear_batch(waves)
    half, _ = BirdNetTorch(path, torch.device("cpu"), is_half=True).hear_batch(waves)
    assert 0 < (half - exact).abs().max() < 0.05


def test_names_are_those_beside_the_graph(tmp_path: Path) -> None:
    """Scientific names, in the order of the logits; without them the file is named."""
    path = write_graph(tmp_path)
    assert BirdNetTorch(path, torch.device("cpu")).names[1] == "Genus species1"
    (tmp_path / "labels.txt").unlink()
    with pytest.raises(DataError, match=r"labels\.txt cannot be read"):
        BirdNetTorch(path, torch.device("cpu"))


def test_what_is_no_such_graph_is_refused(tmp_path: Path) -> None:
    """A file that is not ONNX, and one with operators that BirdNET has not."""
    strange = onnx.helper.make_node("Erf", ["wave"], ["logits"])
    with pytest.raises(DataError, match="it has Erf"):
        BirdNetGraph(write_graph(tmp_path, [strange]))
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(DataError, match="cannot be read"):
        BirdNetGraph(tmp_path / "text.onnx")
