"""Measure the station's path on one core: encoder per window, and sound to events as a whole.

    python bench/pipeline.py [--minutes 10] [--bundle garden]

The whole path is what `run --source` does without its threads: decode a 48 kHz file, resample,
cut windows, encode, track events, keep the ring for clips. Its real-time factor is CPU seconds a
second of sound. Medians over runs; beside the encoder, numpy's FFT of the same window says how
fast the machine is just now.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import soundfile

from fieldstation.analysis.classifier import Classifier
from fieldstation.audio.files import FileSource
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.clips.ring import Ring
from fieldstation.clock import SystemClock
from fieldstation.config import Settings
from fieldstation.demo import RECORDING
from fieldstation.records import AudioChunk, Event, StationIdentity
from fieldstation.station import Compose, Recorder, Station, make_ear

RATE = 48_000
N_WINDOWS = 300
WHO = StationIdentity("bench", "0" * 16, "UTC")
RESULT = Path(__file__).parent / "results" / "pipeline.json"


class Nowhere:
    """Takes events and chunks, and composes each message as the store thread would."""

    def __init__(self) -> None:
        self.n_events = 0
        self._ring = Ring(42.0)

    def post_event(self, event: Event, compose: Compose, clip: object) -> None:
        """Compose the message."""
        self.n_events += 1
        compose(self.n_events)

    def heard(self, chunk: AudioChunk) -> None:
        """Note nothing."""

    def hear(self, chunk: AudioChunk) -> None:
        """Keep the ring."""
        self._ring.push(chunk)

    def post(self, event: Event) -> None:
        """Cut nothing."""


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--bundle", default="garden")
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    bundle = load_bundle(find_bundle(chosen.bundle))
    classifier = Classifier(bundle, "cpu", 1)
    result = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "encoder_id": bundle.encoder_id,
        "provider": classifier.provider,
        "window_s": bundle.window_s,
        **measure_encoder(bundle, classifier),
        **measure_path(bundle, classifier, chosen.minutes, chosen.runs),
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def measure_encoder(bundle: Bundle, classifier: Classifier) -> dict[str, float]:
    """Return medians of one window at a time, in turn with an FFT of it."""
    noise = np.random.default_rng(0).normal(0, 0.1, (1, bundle.samples_per_window))
    window = noise.astype(np.float32)
    encoder, fft = [], []
    for _ in range(N_WINDOWS):
        encoder.append(timed(lambda: classifier.run(window)))
        fft.append(timed(lambda: np.fft.rfft(window)))
    return {
        "encoder_ms_per_window": round(statistics.median(encoder) * 1e3, 3),
        "numpy_fft_ms_per_window": round(statistics.median(fft) * 1e3, 3),
        "encoder_over_fft": round(statistics.median(encoder) / statistics.median(fft), 2),
    }


def measure_path(
    bundle: Bundle, classifier: Classifier, minutes: float, n_runs: int
) -> dict[str, float]:
    """Return the whole path's real-time factor on real sound at 48 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound_20260501_040000.wav"
        seconds = write_sound(path, minutes)
        nowhere = Nowhere()
        factors = []
        for _ in range(n_runs):
            source = FileSource(path, None, None, lambda *_: None, ZoneInfo("UTC"))
            ear = make_ear(bundle, classifier, Settings(), WHO, SystemClock())
            station = Station(ear, Recorder(WHO, nowhere, None), nowhere, nowhere)
            began = time.process_time()
            for chunk in source:
                station.process(chunk)
            station.finish()
            factors.append((time.process_time() - began) / seconds)
    return {
        "sound_s": seconds,
        "runs": n_runs,
        "real_time_factor": round(statistics.median(factors), 5),
        "real_time_factor_min": round(min(factors), 5),
        "real_time_factor_max": round(max(factors), 5),
        "events_per_run": nowhere.n_events // n_runs,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def write_sound(path: Path, minutes: float) -> float:
    """Write the demo recording over and over at 48 kHz; return the seconds."""
    import soxr

    samples, rate = soundfile.read(RECORDING, dtype="float32")
    once = soxr.resample(samples, rate, RATE)
    n = max(1, round(minutes * 60 * RATE / once.size))
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(n):
            file.write(once)
    return float(n * once.size / RATE)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
