"""Measure `fieldstation run` on a live 48 kHz stream: memory, CPU, and how late a bird is told.

    python -m bench.run_live [--minutes 10] [--threshold 0.1]

The microphone is PipeWire's null sink (tests/system/sound.py), into which the demo recording is
played over and over. The station is the user's: shipped bundle, embedded broker, log and clips.
Its thresholds are lowered so that there are events to time.

Delay: from the end of the window that closed the event (`ended_at` + hop, on the station's clock,
which stamps sound as it arrives; the encoder's frames, by which events end sooner, are left out)
until mosquitto_sub has the message, and until another process can read the row from the log (looked
for every 10 ms). What the sound card keeps before it hands sound over is not in it. Memory and CPU
are the kernel's, of station and broker, at the second start: the first makes the databases, which
takes 11 MB of libraries. ALSA has PipeWire's plug-in only; those of Debian's libasound2-plugins
take 15 MB more wherever they are installed.
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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bench.by_windows import told_by_windows
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.clock import US_PER_S, parse_instant
from fieldstation.config import EventSettings
from fieldstation.demo import RECORDING
from fieldstation.state import State
from tests.system import sound
from tests.system.sound import SoundServer, sound_server

RATE = 48_000
WARM_UP_S = 20.0
"""Left out of the CPU: start, golden check, first pages"""
LOOK_S = 0.01
SAMPLE_S = 5.0
GOODBYE_S = 20.0
HEALTH = ("heard_s", "lost_s", "n_gaps", "n_events", "n_logged", "real_time_factor", "problems")
RESULT = Path(__file__).parent / "results" / "run_live.json"


@dataclass
class Usage:
    """A process's memory over time and its CPU since the warm-up."""

    pid: int
    memory_mb: list[float] = field(default_factory=list)
    cpu_s_at: list[tuple[float, float]] = field(default_factory=list)

    def sample(self) -> None:
        """Read /proc."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        rss_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        self.memory_mb.append(rss_kb / 1024)
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])  # utime, stime
        self.cpu_s_at.append((time.monotonic(), ticks / os.sysconf("SC_CLK_TCK")))

    def told(self) -> dict[str, float]:
        """Return the memory and the share of one core."""
        (began, first), (ended, last) = self.cpu_s_at[0], self.cpu_s_at[-1]
        return {
            "memory_mb_first": round(self.memory_mb[0], 1),
            "memory_mb_last": round(self.memory_mb[-1], 1),
            "memory_mb_max": round(max(self.memory_mb), 1),
            "cpu_percent_of_one_core": round(100 * (last - first) / (ended - began), 2),
        }


class RowWatch(threading.Thread):
    """Notes when each row of a log can first be read."""

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self.seen_at: dict[str, float] = {}
        self._database = database
        self.stop = threading.Event()

    def run(self) -> None:
        """Look every 10 ms."""
        log = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        last = 0
        while not self.stop.wait(LOOK_S):
            query = "SELECT rowid, event_id FROM detections WHERE rowid > ?"
            for rowid, event_id in log.execute(query, (last,)).fetchall():
                self.seen_at[event_id] = time.time()
                last = rowid


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--threshold", type=float, default=0.1)
    options.add_argument("--bundle", default="garden")
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    if reason := sound.why_not():
        sys.exit(reason)
    bundle = load_bundle(find_bundle(chosen.bundle))
    with tempfile.TemporaryDirectory() as name, sound_server(RATE) as server:
        folder = Path(name)
        bundle = told_by_windows(bundle, folder / "bundle")
        play = write_sound(folder / "sound.wav", chosen.minutes)
        result = {
            "device": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
            "onnxruntime": importlib.metadata.version("onnxruntime"),
            "encoder_id": bundle.encoder_id,
            "load_before": os.getloadavg()[0],
            **measure(server, folder, bundle, chosen.threshold, play),
            "load_after": os.getloadavg()[0],
        }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(
    server: SoundServer, folder: Path, bundle: Bundle, threshold: float, play: Path
) -> dict[str, object]:
    """Run the station while a file is played to it."""
    state, told = folder / "state", folder / "told"
    with station(server, folder, bundle, threshold):
        pass
    with station(server, folder, bundle, threshold) as process:
        usage = Usage(process.pid), Usage(broker_of(process.pid))
        rows = RowWatch(state / "log.db")
        rows.start()
        with subscriber(state / "broker" / "reader.json", told):
            player = server.play(play)
            time.sleep(WARM_UP_S)
            while player.poll() is None:
                for one in usage:
                    one.sample()
                time.sleep(SAMPLE_S)
            time.sleep(bundle.window_s + 1)
        rows.stop.set()
    health = told_health(state)
    return {
        "played_s": soundfile.info(play).duration,
        "station": usage[0].told(),
        "broker": usage[1].told(),
        **delays(told, rows, bundle.window_s / 2),
        "health": {name: health[name] for name in HEALTH},
    }


def told_health(state: Path) -> dict[str, Any]:
    """Return what a station last said of itself."""
    vitals = State(state).told_vitals()
    return vitals.read("health") if vitals else {}


def delays(told: Path, rows: RowWatch, hop_s: float) -> dict[str, object]:
    """Return medians and 95th percentiles from the closing window's end, in milliseconds."""
    to_subscriber, to_row = [], []
    for line in told.read_text().splitlines():
        arrived_at, _, payload = line.partition(" ")
        event = json.loads(payload)
        length_s = (
            parse_instant(event["ended_at"]) - parse_instant(event["started_at"])
        ) / US_PER_S
        if length_s >= EventSettings().max_event_s:
            continue  # closed by its own last window, not by the one after
        closed_at = parse_instant(event["ended_at"]) / US_PER_S + hop_s
        to_subscriber.append(float(arrived_at) - closed_at)
        to_row.append(rows.seen_at[event["event_id"]] - closed_at)
    return {
        "events": len(to_subscriber),
        "to_subscriber_ms": percentiles(to_subscriber),
        "to_row_ms": percentiles(to_row),
    }


def percentiles(values_s: list[float]) -> dict[str, float]:
    """Return p50, p95 and the largest, in milliseconds."""
    p50, p95 = np.percentile(values_s, [50, 95])
    return {
        "p50": round(p50 * 1e3, 1),
        "p95": round(p95 * 1e3, 1),
        "max": round(max(values_s) * 1e3, 1),
        "mean": round(statistics.fmean(values_s) * 1e3, 1),
    }


@contextmanager
def station(
    server: SoundServer, folder: Path, bundle: Bundle, threshold: float, more: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a station on the microphone until the block ends.

    Args:
        more: further sections of its settings.
    """
    thresholds = {label.scientific_name: threshold for label in bundle.species}
    lines = "\n".join(f"{json.dumps(name)} = {value}" for name, value in thresholds.items())
    settings = folder / "settings.toml"
    settings.write_text(
        f'[station]\nname = "bench"\ntimezone = "UTC"\n[mqtt]\nport = 0\n{more}\n'
        f"[model]\nbundle = {json.dumps(str(bundle.path))}\n[model.thresholds]\n{lines}\n"
    )
    command = [sys.executable, "-m", "fieldstation", "run", "--config", str(settings)]
    process = subprocess.Popen(
        [*command, "--state", str(folder / "state")],
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=(folder / "station.log").open("wb"),
    )
    try:
        server.wait_for_listener(lambda: process.poll() is None)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(GOODBYE_S)


@contextmanager
def subscriber(access: Path, told: Path) -> Iterator[None]:
    """Write each detection with the second of its arrival."""
    reader = json.loads(access.read_text())
    url = reader["url"].replace("reader@", f"reader:{reader['password']}@")
    command = ["mosquitto_sub", "-L", f"{url}/fieldstation/+/detection", "-q", "1", "-F", "%U %p"]
    process = subprocess.Popen(command, stdout=told.open("wb"))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def broker_of(pid: int) -> int:
    """Return the process of a station's embedded broker."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def write_sound(path: Path, minutes: float) -> Path:
    """Write the demo recording over and over at its 48 kHz."""
    samples, rate = soundfile.read(RECORDING, dtype="int16")
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(max(1, round(minutes * 60 * rate / samples.size))):
            file.write(samples)
    return path


if __name__ == "__main__":
    main()
