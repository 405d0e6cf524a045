"""Measure how long the command line takes to answer.

    python bench/startup.py [--runs 21]

Medians over fresh processes, in turn with an interpreter that does nothing, so that what is ours
can be told from what is Python's. Byte code is there already, as after any first start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python_alone": ["-c", "pass"],
    "import_cli": ["-c", "import fieldstation.cli"],
    "help": ["-m", "fieldstation", "--help"],
    "version": ["-m", "fieldstation", "--version"],
    "run_help": ["-m", "fieldstation", "run", "--help"],
    "detections_help": ["-m", "fieldstation", "detections", "--help"],
}
RESULT = Path(__file__).parent / "results" / "startup.json"


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=21)
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    for command in COMMANDS.values():
        timed(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(chosen.runs):
        for name, command in COMMANDS.items():
            times[name].append(timed(command))
    result = {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "runs": chosen.runs,
        "load": os.getloadavg()[0],
        **{f"{name}_s": round(statistics.median(taken), 3) for name, taken in times.items()},
        **{f"{name}_s_min": round(min(taken), 3) for name, taken in times.items()},
    }
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def timed(arguments: list[str]) -> float:
    """Return the seconds that a fresh interpreter takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        },
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
