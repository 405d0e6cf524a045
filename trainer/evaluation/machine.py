"""What a measurement ran on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def processor() -> str:
    """Return the processor's name, or its family where the system tells no name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    lines = (line for line in text.splitlines() if line.startswith("model name"))
    return next(lines, "").partition(":")[2].strip() or platform.processor() or platform.machine()


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages; empty of one that is not installed as such."""
    found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {name: found.get(name, "") for name in names}
