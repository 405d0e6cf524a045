"""Measure what a queue of pictures costs the ear: `run` live, with 1,000 jobs waiting, and without.

    python -m bench.ear --bundle FOLDER [--minutes 5] [--runs 3] [--jobs 1000]

The station is the user's (embedded broker, log, clips, its worker as a child), the microphone
PipeWire's null sink, into which the demo recording is played over and over. Runs with jobs and
without take turns on the same two cores; without them generation is off, so that the memory of both
says what it costs. Before the first and after the last the worker paints alone, for its solo rate.
Delays are those of bench/run_live.py: from the end of the window that closed an event until
mosquitto_sub has its message, and until its row can be read.

A bundle that paints is needed. What it paints does not matter here; how long that takes does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from bench.by_windows import told_by_windows
from bench.run_live import (
    GOODBYE_S,
    HEALTH,
    RATE,
    SAMPLE_S,
    WARM_UP_S,
    RowWatch,
    Usage,
    delays,
    station,
    subscriber,
    told_health,
    write_sound,
)
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.clock import SystemClock
from fieldstation.config import GenerationSettings
from fieldstation.pictures import policy_of
from fieldstation.records import Detection
from fieldstation.store.job_maker import JobMaker
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.mosquitto import Mosquitto
from tests.system import sound
from tests.system.sound import SoundServer, sound_server

N_CORES = 2
SOLO_S = 60.0
RESULT = Path(__file__).parent / "results" / "ear.json"
OFF = "[generation]\nenabled = false"
GOALS = {
    "overflows": "none in any run",
    "p95_latency_ratio": "at most 1.3",
    "run_memory_difference_mb": "within 2",
    "worker_rate_of_solo": "at least 0.5",
}


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", default="garden")
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--jobs", type=int, default=1_000)
    options.add_argument("--threshold", type=float, default=0.1)
    options.add_argument("--solo-s", type=float, default=SOLO_S)
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    if reason := sound.why_not():
        sys.exit(reason)
    bundle = load_bundle(find_bundle(chosen.bundle))
    if bundle.generator is None:
        sys.exit(f"{bundle.name} does not paint: name a bundle that does")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:N_CORES])
    with tempfile.TemporaryDirectory() as name, sound_server(RATE) as server:
        bundle = told_by_windows(bundle, Path(name) / "bundle")
        measured = measure(chosen, server, Path(name), bundle)
    result = {**describe(bundle, chosen), **measured}
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def describe(bundle: Bundle, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured on what."""
    card = bundle.generator
    assert card is not None
    return {
        "device": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores used",
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "generator_id": card.generator_id,
        "generator": f"{card.profile} {card.size}, {card.solver}, {card.n_steps} steps",
        "minutes": chosen.minutes,
        "jobs": chosen.jobs,
        "goals": GOALS,
    }


def measure(
    chosen: argparse.Namespace, server: SoundServer, folder: Path, bundle: Bundle
) -> dict[str, Any]:
    """Let runs with jobs and without take turns, between two solos of the worker."""
    play = write_sound(folder / "sound.wav", chosen.minutes)
    solo = [paint_alone(folder / "solo-first", bundle, chosen)]
    runs: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    for turn in range(chosen.runs):
        for kind in ("without", "with") if turn % 2 == 0 else ("with", "without"):
            place = folder / f"{kind}-{turn}"
            n_jobs = chosen.jobs if kind == "with" else 0
            one = run_once(server, place, bundle, chosen.threshold, play, n_jobs)
            runs[kind].append({**one, "load_after": os.getloadavg()[0]})
            print(f"{kind}: {json.dumps(runs[kind][-1])}", file=sys.stderr, flush=True)
    solo.append(paint_alone(folder / "solo-last", bundle, chosen))
    return {**compare(runs, solo), "solo_per_minute": solo, "runs": runs}


def compare(runs: dict[str, list[dict[str, Any]]], solo: list[float]) -> dict[str, Any]:
    """Return what the goals are about, from the medians of the runs."""

    def median(kind: str, *path: str) -> float:
        found = []
        for run in runs[kind]:
            value: Any = run
            for key in path:
                value = value[key]
            found.append(float(value))
        return statistics.median(found)

    p95 = {kind: median(kind, "to_subscriber_ms", "p95") for kind in runs}
    memory = {kind: median(kind, "station", "memory_mb_max") for kind in runs}
    return {
        "overflows": sum(run["health"]["n_gaps"] for kind in runs.values() for run in kind),
        "p95_latency_ms": p95,
        "p95_latency_ratio": round(p95["with"] / p95["without"], 3),
        "run_memory_mb": memory,
        "run_memory_difference_mb": round(memory["with"] - memory["without"], 1),
        "worker_per_minute": round(median("with", "pictures_per_minute"), 1),
        "worker_rate_of_solo": round(
            median("with", "pictures_per_minute") / max(statistics.fmean(solo), 1e-9), 3
        ),
    }


def run_once(
    server: SoundServer, folder: Path, bundle: Bundle, threshold: float, play: Path, n_jobs: int
) -> dict[str, Any]:
    """Run the station while a file is played to it."""
    state, told = folder / "state", folder / "told"
    prepare(state, bundle, n_jobs)
    with station(server, folder, bundle, threshold, "" if n_jobs else OFF) as process:
        usage, rows = Usage(process.pid), RowWatch(state / "log.db")
        rows.start()
        with subscriber(state / "broker" / "reader.json", told):
            player = server.play(play)
            time.sleep(WARM_UP_S)
            began, n_before = time.monotonic(), n_painted(state)
            while player.poll() is None:
                usage.sample()
                time.sleep(SAMPLE_S)
            per_minute = 60 * (n_painted(state) - n_before) / (time.monotonic() - began)
            time.sleep(bundle.window_s + 1)
        rows.stop.set()
        worker = [Usage(pid) for pid in children(process.pid, "worker")]
        for one in worker:
            one.sample()
    health = told_health(state)
    return {
        "station": usage.told(),
        "worker_memory_mb": [round(one.memory_mb[0], 1) for one in worker],
        "pictures_per_minute": round(per_minute, 1),
        "jobs_left": n_waiting(state),
        **delays(told, rows, bundle.window_s / 2),
        "health": {name: health[name] for name in HEALTH},
    }


def prepare(state: Path, bundle: Bundle, n_jobs: int) -> None:
    """Make both databases, the log with jobs of events that were heard before."""
    state.mkdir(parents=True)
    StationStore(state / "station.db").close()
    policy = policy_of(GenerationSettings(queue=100_000), bundle)
    log = LogStore(str(state / "log.db"), maker=JobMaker(policy))
    log.record([heard(number, bundle) for number in range(n_jobs)], SystemClock().wall())
    log.close()


def heard(number: int, bundle: Bundle) -> Detection:
    """Return an event of some time ago, with an embedding."""
    assert bundle.generator is not None
    name = bundle.generator.paints[number % len(bundle.generator.paints)]
    started_at = SystemClock().wall() - (number + 1) * 60_000_000
    embedding = np.random.default_rng(number).normal(size=512).astype("<f2").tobytes()
    return Detection(
        event_id=str(UUID(int=number + 1)),
        station="bench",
        station_key="0" * 16,
        sequence=number + 1,
        started_at=started_at,
        ended_at=started_at + 3_000_000,
        timezone="UTC",
        scientific_name=name,
        common_name=name,
        probability=0.9,
        threshold=0.5,
        encoder_id=bundle.encoder_id,
        embedding=embedding,
    )


def paint_alone(folder: Path, bundle: Bundle, chosen: argparse.Namespace) -> float:
    """Return how many pictures a minute the worker paints and publishes with nothing beside it."""
    folder.mkdir()
    prepare(folder / "state", bundle, chosen.jobs)
    with broker(folder) as url:
        words = ["worker", "--state", folder / "state", "--bundle", bundle.path, "--broker", url]
        process = subprocess.Popen(
            [sys.executable, "-m", "fieldstation", *map(str, words)],
            stdout=(folder / "worker.log").open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            while not n_painted(folder / "state") and process.poll() is None:
                time.sleep(0.1)
            began, n_before = time.monotonic(), n_painted(folder / "state")
            time.sleep(chosen.solo_s)
            n = n_painted(folder / "state") - n_before
            return round(60 * n / (time.monotonic() - began), 1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(GOODBYE_S)


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """Give the url of a broker."""
    found = Mosquitto(folder)
    found.start()
    try:
        yield found.url
    finally:
        found.kill()


def n_painted(state: Path) -> int:
    """Return how many pictures a log has."""
    return _count(state, "SELECT count(*) FROM images")


def n_waiting(state: Path) -> int:
    """Return how many jobs are left: where none are, the worker's rate is not its own."""
    return _count(state, "SELECT count(*) FROM jobs WHERE state IN ('queued', 'claimed')")


def _count(state: Path, query: str) -> int:
    with closing(sqlite3.connect(f"file:{state}/log.db?mode=ro", uri=True, timeout=5)) as log:
        return int(log.execute(query).fetchone()[0])


def children(pid: int, word: str) -> list[int]:
    """Return a process's children whose command line has a word."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = {int(n): Path(f"/proc/{n}/cmdline").read_bytes().split(b"\0") for n in found}
    return [n for n, words in lines.items() if word.encode() in words]


if __name__ == "__main__":
    main()
