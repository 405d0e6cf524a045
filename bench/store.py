"""How fast the databases take what they must not lose.

    python bench/store.py                                   # SQLite
    python bench/store.py --database postgresql://user@host/empty

Every transaction counted here has reached the disk when it is counted (synchronous=FULL).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

import numpy as np

from fieldstation.records import Detection, Event, Label, Message
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore

N_ROWS, BATCH = 20_000, 500
N_EVENTS = 500
N_OPENS = 5
START = 1_777_600_000_000_000
OPEN = (
    "import sys, time; from fieldstation.store.log_db import LogStore; t = time.perf_counter();"
    "LogStore(sys.argv[1]).close(); print(time.perf_counter() - t)"
)


def detection(number: int) -> Detection:
    """Return one of many detections: ten species, one every ten seconds."""
    started_at = START + number * 10_000_000
    return Detection(
        event_id=str(UUID(int=(number * 0x9E3779B97F4A7C15) % 2**128)),
        station="bench",
        station_key="k",
        sequence=number,
        started_at=started_at,
        ended_at=started_at + 3_000_000,
        timezone="Europe/Berlin",
        scientific_name=f"Species {number % 10}",
        common_name=f"Bird {number % 10}",
        probability=0.9,
        threshold=0.5,
        encoder_id="0123456789abcdef",
        embedding=bytes(1024),
    )


def rows_per_s(log: LogStore, first: int) -> float:
    """Return new rows a second, written in batches."""
    batches = [
        [detection(n) for n in range(start, start + BATCH)]
        for start in range(first, first + N_ROWS, BATCH)
    ]
    begun = time.perf_counter()
    for batch in batches:
        log.record(batch, START)
    return N_ROWS / (time.perf_counter() - begun)


def commit_ms(store: StationStore) -> list[float]:
    """Return how long each event took, written with its message in its own transaction."""
    label = Label("Parus major", "Great Tit")
    embedding = np.zeros(512, np.float32)
    event = Event(UUID(int=0), label, START, START, 0.9, 0.5, "x", embedding=embedding)
    events = [replace(event, id=UUID(int=n)) for n in range(1, N_EVENTS + 1)]
    return [1000 * seconds(partial(store.record_event, one, compose)) for one in events]


def compose(sequence: int) -> Message:
    """Return a message as long as a detection with its embedding."""
    return Message("fieldstation/bench/detection", bytes(2_000))


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def open_ms(path: Path) -> float:
    """Return how long a new process takes to open a log, imports of its own done."""
    said = subprocess.check_output([sys.executable, "-c", OPEN, str(path)], text=True)
    return 1000 * float(said)


def measure(folder: Path, url: str) -> dict[str, object]:
    """Run everything once."""
    fresh = [open_ms(folder / f"fresh{n}.db") for n in range(N_OPENS)]
    again = [open_ms(folder / "fresh0.db") for _ in range(N_OPENS)]
    log, store = LogStore(url), StationStore(folder / "station.db")
    found = {
        "log_new_rows_per_s": round(rows_per_s(log, 0)),
        "log_known_rows_per_s": round(rows_per_s(log, 0)),
        "log_open_fresh_ms": round(median(fresh), 1),
        "log_open_up_to_date_ms": round(median(again), 1),
    }
    milliseconds = commit_ms(store)
    cuts = quantiles(milliseconds, n=20)
    found |= {"event_commit_p50_ms": round(cuts[9], 2), "event_commit_p95_ms": round(cuts[18], 2)}
    log.close()
    store.close()
    return dict(found)


def main() -> None:
    """Measure and write bench/results/store.json, one entry for each kind of database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="url of an empty log; default: a temporary SQLite file")
    parser.add_argument("--folder", type=Path, help="disk to measure; default: the temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        url = arguments.database or f"{name}/log.db"
        found = measure(Path(name), url)
    kind = "postgresql" if arguments.database else "sqlite"
    described = {
        "command": "python bench/store.py" + (" --database URL" if arguments.database else ""),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sqlalchemy": version("sqlalchemy"),
        },
        "batch": BATCH,
        **found,
    }
    path = Path(__file__).parent / "results" / "store.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(results | {kind: described}, indent=1) + "\n")
    print(json.dumps(described, indent=1))


if __name__ == "__main__":
    main()
