"""Measure what a station that hears nothing writes to its disk: the ledger, above all.

    python -m bench.wear [--minutes 10]

As root: each station has an ext4 of its own in a file, whose block device counts what is written
to it, with all that the file system adds. Three at once: nothing but the file system; a station
with its heartbeat in memory, as systemd starts it; one without such a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from fieldstation.bundle import Bundle
from tests.faults.disk import Disk, cannot_mount
from tests.faults.live import LIVE
from tests.faults.played import RATE, make_bundle
from tests.faults.station import Station

RESULT = Path(__file__).parent / "results" / "wear.json"
SECTOR, DAY_S = 512, 86_400
SETTLE_S = 60.0
"""A start writes more than a day's quiet hour"""


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    if why_not := cannot_mount():
        raise SystemExit(why_not)
    result = {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "minutes": chosen.minutes,
        "mb_a_day": measure(chosen.minutes * 60),
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(seconds: float) -> dict[str, float]:
    """Return megabytes a day by case."""
    with ExitStack() as open_things:
        folder = Path(open_things.enter_context(tempfile.TemporaryDirectory()))
        memory = Path(open_things.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        bundle = make_bundle(folder / "calls")
        disks = {}
        for name in ("file_system_alone", "heartbeat_in_memory", "heartbeat_on_disk"):
            disks[name] = Disk(folder / f"{name}.img", folder / name / "state", 256)
            open_things.callback(disks[name].end)
        open_things.callback(quiet_station(folder / "heartbeat_in_memory", bundle, memory).end)
        open_things.callback(quiet_station(folder / "heartbeat_on_disk", bundle, None).end)
        time.sleep(SETTLE_S)
        before = {name: written(disk) for name, disk in disks.items()}
        time.sleep(seconds)
        return {
            name: round((written(disk) - before[name]) / 1e6 * DAY_S / seconds, 1)
            for name, disk in disks.items()
        }


def quiet_station(folder: Path, bundle: Bundle, memory: Path | None) -> Station:
    """Start a station that hears noise too faint for any bird."""
    environment = {name: v for name, v in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    if memory:
        environment["XDG_RUNTIME_DIR"] = str(memory)
    station = Station(folder, bundle, environment=environment, **LIVE)  # type: ignore[arg-type]
    station.start()
    threading.Thread(target=whisper, args=(station.take_pipe(),), daemon=True).start()
    return station


def whisper(pipe: int) -> None:
    """Write faint noise in real time, for as long as somebody hears it."""
    began, n = time.monotonic(), 0
    chance = np.random.default_rng(0)
    with suppress(OSError):
        while True:
            due = round((time.monotonic() - began) * RATE)
            os.write(pipe, chance.integers(-3, 4, due - n).astype("<i2").tobytes())
            n = due
            time.sleep(0.1)


def written(disk: Disk) -> int:
    """Return the bytes that a disk's device was told to write since it exists."""
    found = subprocess.run(
        ["findmnt", "-no", "SOURCE", disk.folder], capture_output=True, text=True, check=True
    )
    device = Path(found.stdout.strip()).name
    return int(Path(f"/sys/block/{device}/stat").read_text().split()[6]) * SECTOR


if __name__ == "__main__":
    main()
