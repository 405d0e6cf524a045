"""Time BirdNET as a patient teacher on a CPU: torch's bfloat16 and OpenVINO's, in turn, on a core.

    python -m bench.teacher --graph birdnet.onnx --data ../shared/data/garden

Needs openvino; the graph is what bench/birdnet_onnx.py makes. Prints the medians, and how far the
logits are from torch's fp32 ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from trainer.data.audio import decode
from trainer.data.birdnet_openvino import FusedBirdNet
from trainer.data.birdnet_torch import BirdNetTorch
from trainer.data.recordings import read_recordings
from trainer.data.teacher import BIRDNET_RATE, BIRDNET_SAMPLES
from trainer.evaluation.timing import timed_s

RESULT = Path(__file__).parent / "results" / "teacher.json"
N_WINDOWS, N_TURNS = 32, 7


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--graph", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    windows = first_windows(chosen.data)
    half = BirdNetTorch(chosen.graph, torch.device("cpu"), is_half=True)
    teachers = {"torch_bf16": half, "openvino_bf16": FusedBirdNet(chosen.graph, n_threads=1)}
    exact, _ = BirdNetTorch(chosen.graph, torch.device("cpu")).hear_batch(windows)
    distance = {name: t.hear_batch(windows)[0] - exact for name, t in teachers.items()}
    took: dict[str, list[float]] = {name: [] for name in teachers}
    for _ in range(N_TURNS):
        for name, teacher in teachers.items():
            took[name].append(timed_s(lambda teacher=teacher: teacher.hear_batch(windows))[0])
    result = {
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {name: metadata.version(name) for name in ("torch", "openvino", "numpy")},
        "n_windows": len(windows),
        "cpu_ms_per_window": {
            name: round(1000 * statistics.median(t) / len(windows), 2) for name, t in took.items()
        },
        "mean_delta_logit": {n: round(float(d.abs().mean()), 4) for n, d in distance.items()},
        "largest_delta_logit": {n: round(float(d.abs().max()), 3) for n, d in distance.items()},
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def first_windows(folder: Path) -> torch.Tensor:
    """Return the first 3 s of some recordings, float32 [windows, 144000]."""
    recordings = read_recordings(folder)
    chosen = recordings[:: max(1, len(recordings) // N_WINDOWS)][:N_WINDOWS]
    windows = np.zeros((len(chosen), BIRDNET_SAMPLES), np.float32)
    for row, recording in zip(windows, chosen, strict=True):
        samples = decode(recording.path, BIRDNET_RATE)[:BIRDNET_SAMPLES]
        row[: len(samples)] = samples
    return torch.from_numpy(windows)


if __name__ == "__main__":
    main()
