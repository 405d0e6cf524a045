"""Print what fault tests counted as rows of docs/reliability.md.

python -m tests.faults.report counts.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = "| fault | promised | seen | command |\n|---|---|---|---|"


def table(lines: Iterable[str]) -> str:
    """Return a Markdown table of JSON lines; of one command the last counts."""
    newest: dict[str, dict[str, Any]] = {}
    for line in lines:
        entry = json.loads(line)
        newest[entry["command"]] = entry
    return "\n".join([HEAD, *map(_row, newest.values())])


def _row(entry: dict[str, Any]) -> str:
    seen = ", ".join(f"{name.replace('_', ' ')} {_shown(n)}" for name, n in entry["seen"].items())
    return f"| {entry['made']} | {entry['promised']} | {seen} | `{entry['command']}` |"


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    found = [line for name in sys.argv[1:] for line in Path(name).read_text().splitlines()]
    print(table(found))
