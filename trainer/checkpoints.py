"""Writing what a training goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def write_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write a state with torch, whole or not at all: also where the power fails on the way."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
