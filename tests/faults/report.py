"""Print what fault tests counted as the tables of docs/reliability.md.

python -m tests.faults.report counts.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = "| fault | promised | seen | command |\n|---|---|---|---|"
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


def page(lines: Iterable[str]) -> str:
    """Return Markdown tables of JSON lines, one a section; of one command the last counts."""
    newest: dict[str, dict[str, Any]] = {}
    for line in lines:
        entry = json.loads(line)
        newest[entry["command"]] = entry
    rows: dict[str, list[str]] = {title: [] for title in SECTIONS.values()}
    for command, entry in newest.items():
        rows[_section(command)].append(_row(entry))
    return "\n".join(f"## {title}\n\n{_table(made)}\n" for title, made in rows.items() if made)


def _section(command: str) -> str:
    return SECTIONS[Path(command.split()[1].partition("::")[0]).name]


def _table(rows: list[str]) -> str:
    return "\n".join([HEAD, *rows])


def _row(entry: dict[str, Any]) -> str:
    seen = ", ".join(_shown(name, value) for name, value in entry["seen"].items())
    return f"| {entry['made']} | {entry['promised']} | {seen} | `{entry['command']}` |"


def _shown(name: str, value: object) -> str:
    """Return a count in words: `5 kills`, `memory before 107 MB`, `attempts 9 and 8`."""
    for ending, unit in UNITS.items():
        if name.endswith(f"_{ending}"):
            return f"{_words(name.removesuffix(ending))} {_number(value)} {unit}"
    if isinstance(value, int):
        return f"{_number(value)} {_words(name)}"
    return f"{_words(name)} {_number(value)}"


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ")


def _number(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    found = [line for name in sys.argv[1:] for line in Path(name).read_text().splitlines()]
    print(page(found), end="")
