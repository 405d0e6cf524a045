"""Quantise a bundle's encoder to int8, front end left out, and see what it gains and costs.

    ORT_DISABLE_TELEMETRY=1 python bench/int8.py --bundle B --data ../shared/data/garden --fold 0 \\
        --out FOLDER

Static quantisation by onnxruntime, per channel, calibrated on windows of the folder's other folds.
Accuracy is that of `trainer.evaluate`, on the fold; time is CPU time on one core, in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle, find_bundle, load_bundle, load_golden, save_bundle
from trainer.data.recordings import Recording
from trainer.data.windows import WindowGrid
from trainer.evaluation.hearing import batches_of, decoded, hear
from trainer.evaluation.machine import processor
from trainer.evaluation.measures import accuracy
from trainer.evaluation.timing import medians_in_turn
from trainer.evaluation.truth import read_truth

N_CALIBRATION = 200
METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
TYPES = {"u8s8": QuantType.QUInt8, "s8s8": QuantType.QInt8}
RESULT = Path(__file__).parent / "results" / "int8.json"


class Windows(CalibrationDataReader):
    """Gives windows to the calibration, one at a time."""

    def __init__(self, name: str, windows: Sequence[np.ndarray]) -> None:
        self._rest = iter([{name: window} for window in windows])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next, or None at the end."""
        return next(self._rest, None)


def main() -> None:
    """Quantise in each way, measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--fold", type=int, default=0)
    options.add_argument("--out", type=Path, required=True, help="gets the quantised bundles")
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    recordings = read_truth(chosen.data).recordings
    held = [r for r in recordings if r.fold == chosen.fold]
    others = [r for r in recordings if r.fold != chosen.fold]
    windows = list(islice(some_windows(bundle, others), N_CALIBRATION))
    plain = folded(bundle, chosen.out / "fp32.onnx")
    bundles = {"fp32": bundle}
    for kind in TYPES:
        for method in METHODS:
            name = f"{kind}-{method}"
            bundles[name] = quantised(bundle, plain, windows, kind, method, chosen.out / name)
    result = {
        "machine": processor(),
        "onnxruntime": onnxruntime.__version__,
        "encoder_id": bundle.encoder_id,
        "trained_fold": bundle.trained_on.get("fold"),
        "fold": chosen.fold,
        "models": compare(bundles, held, windows),
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def some_windows(bundle: Bundle, recordings: Sequence[Recording]) -> Iterator[np.ndarray]:
    """Yield a window [1, n] of each recording in turn."""
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window)
    for recording in recordings:
        yield next(batches_of(decoded(recording, bundle.sample_rate), grid))[:1]


def folded(bundle: Bundle, path: Path) -> Path:
    """Write the graph with its constants computed: fp16 weights as fp32, names kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(bundle.encoder_path, options, providers=["CPUExecutionProvider"])
    return path


def front_end(path: Path, mel: str) -> list[str]:
    """Return the names of the nodes that lead to the mel spectrogram."""
    graph = onnx.load(path).graph
    needed, names = {mel}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            names.append(node.name)
    return names


def quantised(
    bundle: Bundle,
    plain: Path,
    windows: Sequence[np.ndarray],
    kind: str,
    method: str,
    folder: Path,
) -> Bundle:
    """Return a bundle of the quantised encoder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    quantize_static(
        plain,
        folder / "encoder.onnx",
        Windows(bundle.input, windows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=TYPES[kind],
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
        nodes_to_exclude=front_end(plain, str(bundle.outputs.mel)),
    )
    loose = dict.fromkeys(bundle.tolerance, 1000.0)
    return save_bundle(replace(bundle, path=folder, tolerance=loose), load_golden(bundle), "")


def compare(
    bundles: dict[str, Bundle], held: Sequence[Recording], windows: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return time, size, accuracy and distance from fp32 of each."""
    classifiers = {name: Classifier(bundle, "cpu", 1) for name, bundle in bundles.items()}
    again = cycle(windows)
    works: dict[str, Callable[[], object]] = {
        name: lambda c=c: c.run(next(again))  # type: ignore[misc]
        for name, c in classifiers.items()
    }
    took = medians_in_turn(works)
    first = np.concatenate([classifiers["fp32"].run(w)[0] for w in windows])
    table = {}
    for name, bundle in bundles.items():
        heard, _, _ = hear(bundle, held)
        logits = np.concatenate([classifiers[name].run(w)[0] for w in windows])
        figures = accuracy(heard)
        table[name] = {
            "cpu_ms": round(took[name].cpu_ms, 3),
            "over_fp32": round(took[name].cpu_ms / took["fp32"].cpu_ms, 3),
            "bytes": bundle.encoder_path.stat().st_size,
            "mean_abs_delta_logit": round(float(np.abs(logits - first).mean()), 4),
            **{key: figures[key] for key in ("recording_top1", "window_top1", "cmap")},
        }
    return table


if __name__ == "__main__":
    main()
