"""Measure what a picture costs, without torch; or beside it.

    python bench/paint.py [--bundle NAME|FOLDER] [--pictures 20] [--threads 1 2] [--provider cpu]
    python bench/paint.py --beside-torch --threads 1       # writes bench/results/paint_torch.json

Medians of whole pictures, one at a time and eight together, and of single network calls, after a
picture to warm up; thread counts in turn, so that all meet the same machine. Beside the time that
passed stands the processor's (`cpu`), which other work on the machine lengthens less. The golden
picture says whether it is still the right one. Torch's threads are the whole process's: beside it
only one number of threads can be measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.generation.conditions import load_conditions
from fieldstation.generation.denoiser import check_generator
from fieldstation.generation.noise import noise_for
from fieldstation.generation.painter import AT_ONCE, Painter, check_picture
from fieldstation.generation.runtimes import open_denoiser

RESULTS = Path(__file__).parent / "results"
ONNX, TORCH = "onnxruntime", "torch"
SIGMA = 1.0
EQUAL_DB = 99.0
"""Written where not a pixel differs: JSON has no infinity"""
BATCH_EVERY = 4
"""A batch takes as long as all else"""


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", default="garden")
    options.add_argument("--pictures", type=int, default=20)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--provider", choices=("cpu", "cuda", "auto"), default="cpu")
    options.add_argument("--beside-torch", action="store_true", help="both runtimes, in turn")
    options.add_argument("--json", type=Path, help="default: in bench/results")
    chosen = options.parse_args()
    if chosen.beside_torch and len(chosen.threads) > 1:
        options.error("--beside-torch: name one number of --threads")
    bundle = load_bundle(find_bundle(chosen.bundle))
    runtimes = (ONNX, TORCH) if chosen.beside_torch else (ONNX,)
    measured = measure(bundle, runtimes, chosen.provider, chosen.threads, chosen.pictures)
    if "torch" in sys.modules and not chosen.beside_torch:
        raise RuntimeError("torch was loaded: this is to be measured without it")
    result = {
        **describe(bundle, chosen.pictures),
        "torch_loaded": chosen.beside_torch,
        "threads": measured[ONNX],
    }
    if chosen.beside_torch:
        (ours,), (theirs,) = measured[ONNX].values(), measured[TORCH].values()
        result |= {"torch": measured[TORCH], "torch_takes_times": ratios(theirs, ours)}
    print(json.dumps(result, indent=1))
    path = chosen.json or RESULTS / ("paint_torch.json" if chosen.beside_torch else "paint.json")
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def ratios(figures: dict[str, Any], others: dict[str, Any]) -> dict[str, float]:
    """Return how many times as long each took, by the clock and by the processor's time."""
    names = [name for name in figures if name.endswith(("_ms", "_ms_cpu")) and "open" not in name]
    return {name: round(figures[name] / others[name], 2) for name in names}


def describe(bundle: Bundle, n_pictures: int) -> dict[str, Any]:
    """Return what was measured, and where."""
    assert bundle.generator is not None
    packages = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow")
    installed = {found.metadata["Name"] for found in importlib.metadata.distributions()}
    return {
        "device": f"{processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages if name in installed},
            **({TORCH: importlib.metadata.version(TORCH)} if TORCH in sys.modules else {}),
        },
        "bundle": bundle.name,
        "generator_id": bundle.generator_id,
        "size": f"{bundle.generator.profile}, {bundle.generator.size}",
        "denoiser_mb": round(bundle.denoiser_path.stat().st_size / 1e6, 2),
        "solver": bundle.generator.solver,
        "n_steps": bundle.generator.n_steps,
        "guidance_scale": bundle.generator.guidance_scale,
        "guidance_interval": bundle.generator.guidance_interval,
        "pictures": n_pictures,
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(
    bundle: Bundle, runtimes: Sequence[str], provider: str, threads: list[int], n_pictures: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures of each runtime for each number of threads."""
    subjects = {
        runtime: {str(n): Subject(bundle, runtime, provider, n) for n in threads}
        for runtime in runtimes
    }
    for index in range(n_pictures):
        for subject in (one for of_runtime in subjects.values() for one in of_runtime.values()):
            subject.time_once(with_batch=index % BATCH_EVERY == 0)
    return {
        runtime: {n: subject.figures() for n, subject in of_runtime.items()}
        for runtime, of_runtime in subjects.items()
    }


class Subject:
    """A painter, and how long it took."""

    def __init__(self, bundle: Bundle, runtime: str, provider: str, n_threads: int) -> None:
        began = time.perf_counter()
        self._denoiser = open_denoiser(bundle, runtime, provider, n_threads)
        self._painter = Painter(bundle, self._denoiser)
        self._open_ms = 1e3 * (time.perf_counter() - began)
        self._checks = {
            "golden_max_error": check_generator(self._denoiser, bundle),
            "golden_picture_db": min(check_picture(self._painter, bundle), EQUAL_DB),
        }
        self._conditions = load_conditions(bundle).labels
        self._shape = (3, self._painter.card.image_size, self._painter.card.image_size)
        self._times: dict[str, list[float]] = {}
        self._n_painted = 0
        self._n_calls_before = self._painter.n_network_calls

    def time_once(self, with_batch: bool) -> None:
        """Time one picture, calls for one and for two, and a batch if asked."""
        self._time("picture_ms", lambda: self._paint(1))
        for n in (1, 2):
            self._time(f"call_of_{n}_ms", partial(self._call, n))
        if with_batch:
            self._time(f"picture_of_{AT_ONCE}_ms", lambda: self._paint(AT_ONCE), AT_ONCE)

    def figures(self) -> dict[str, Any]:
        """Return medians, and the least, in milliseconds."""
        n_calls = self._painter.n_network_calls - self._n_calls_before
        return {
            "provider": self._denoiser.provider,
            "network_calls": n_calls / self._n_painted,
            "open_ms": round(self._open_ms, 1),
            **{name: round(statistics.median(taken), 2) for name, taken in self._times.items()},
            **{
                f"{name}_min": round(min(taken), 2)
                for name, taken in self._times.items()
                if not name.endswith("_cpu")
            },
            **self._checks,
        }

    def _paint(self, n: int) -> None:
        rows = np.arange(self._n_painted, self._n_painted + n) % len(self._conditions)
        self._painter.paint(self._conditions[rows], range(self._n_painted, self._n_painted + n))
        self._n_painted += n

    def _call(self, n: int) -> None:
        x = np.repeat(SIGMA * noise_for(0, self._shape)[None], n, axis=0)
        self._denoiser(x, SIGMA, np.repeat(self._conditions[:1], n, axis=0))

    def _time(self, name: str, act: Callable[[], None], n: int = 1) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        act()
        passed, spent = time.perf_counter() - began, time.process_time() - cpu
        self._times.setdefault(name, []).append(1e3 * passed / n)
        self._times.setdefault(f"{name}_cpu", []).append(1e3 * spent / n)


if __name__ == "__main__":
    main()
