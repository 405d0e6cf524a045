"""Writing what a training goes on from; one training a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
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


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other training out of a folder: two would write over each other's checkpoints.

    Raises:
        ValueError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another training is at work in {folder}: give another --run"
            ) from error
        yield
