"""Print what fault tests counted as the tables of docs/reliability.md.

python -m tests.faults.report long.jsonl --short short.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = "| fault | promised | seen | in CI's short form | command |\n|---|---|---|---|---|"
NOTHING = "–"
LONG = " --long"
SECTIONS = {
    "test_played.py": "No fault",
    "test_killed.py": "Killed",
    "test_broker.py": "The broker",
    "test_outbox.py": "The broker",
    "test_disk.py": "Disk and database",
    "test_microphone.py": "Microphone",
    "test_clock.py": "Clock",
    "test_hostile.py": "Strangers on the wire",
    "test_slow.py": "Analysis slower than real time",
}
"""Title of the table, in the page's order, for each file of tests"""
UNITS = {"per_s": "a second", "s": "s", "mb": "MB"}
"""Endings of a count's name"""


Entry = dict[str, Any]


def page(long: Iterable[str], short: Iterable[str] = ()) -> str:
    """Return Markdown tables of JSON lines, one a section; of one command the last counts."""
    in_long, in_ci = _newest(long), _newest(short)
    rows: dict[str, list[str]] = {title: [] for title in SECTIONS.values()}
    for test in in_long | in_ci:
        rows[_section(test)].append(_row(in_long.get(test), in_ci.get(test)))
    return "\n".join(f"## {title}\n\n{_table(made)}\n" for title, made in rows.items() if made)


def _newest(lines: Iterable[str]) -> dict[str, Entry]:
    """Return the last counts of each test, by the command of its short form."""
    entries = [json.loads(line) for line in lines]
    return {entry["command"].removesuffix(LONG): entry for entry in entries}


def _section(command: str) -> str:
    return SECTIONS[Path(command.split()[1].partition("::")[0]).name]


def _table(rows: list[str]) -> str:
    return "\n".join([HEAD, *rows])


def _row(long: Entry | None, short: Entry | None) -> str:
    entry = long or short or {}
    told = (entry["made"], entry["promised"], _seen(long), _seen(short))
    return f"| {' | '.join(told)} | `{entry['command']}` |"


def _seen(entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    return ", ".join(_shown(name, value) for name, value in entry["seen"].items())


def _shown(name: str, value: object) -> str:
    """Return a count in words: `5 kills`, `memory before 107 MB`, `attempts 9 and 8`."""
    for ending, unit in UNITS.items():
        if name.endswith(f"_{ending}"):
            return f"{_words(name.removesuffix(ending))} {_number(value)} {unit}"
    if isinstance(value, int):
        return f"{_number(value)} {_words(name)}"
    return f"{_words(name)} {_number(value)}"


def _words(name: str) -> str:
    return name.strip("_").replace("_s_", "'s ").replace("_", " ")


def _number(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _lines(files: Iterable[Path]) -> list[str]:
    return [line for file in files for line in file.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("long", nargs="+", type=Path)
    parser.add_argument("--short", nargs="+", type=Path, default=[])
    args = parser.parse_args()
    print(page(_lines(args.long), _lines(args.short)), end="")
