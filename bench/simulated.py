"""A time that passes only as it is told to, for a process and all that it starts (simulated.c)."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parent / "simulated.c"
FIELDS = {"wall_us": 0, "elapsed_us": 8, "is_unplugged": 16, "n_taken": 24}
"""Of `struct simulated`, by their place; the last two are for the card that a soak plays to"""
VARIABLE = "FIELDSTATION_SOAK_TIME"


class SimulatedTime:
    """The time of those who run in `environment`; it begins now and stands still."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """Make it.

        Args:
            folder: gets the library and the file that tells the time.
            environment: what to add to; a library in it that bends clocks bends this time.
        """
        library, self._path = folder / "simulated.so", folder / "time"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        self._path.write_bytes(bytes(8 * len(FIELDS)))
        self._map = _mapped(self._path)
        self.began_at = time.time()
        """Wall seconds at which it began"""
        self.set("wall_us", round(self.began_at * 1e6))
        self._elapsed_us = 0
        given = os.environ if environment is None else environment
        loaded = " ".join(filter(None, (given.get("LD_PRELOAD", ""), str(library))))
        self.environment = {**given, "LD_PRELOAD": loaded, VARIABLE: str(self._path)}

    @property
    def elapsed_s(self) -> float:
        """Return the simulated seconds since it began."""
        return self._elapsed_us / 1e6

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed_us += round(seconds * 1e6)
        self.set("elapsed_us", self._elapsed_us)

    def set(self, field: str, value: int) -> None:
        """Change a field of `struct simulated`."""
        struct.pack_into("q", self._map, FIELDS[field], value)

    def get(self, field: str) -> int:
        """Return a field of `struct simulated`."""
        return _get(self._map, field)


def told(field: str) -> int:
    """Return a field of the time that this process runs in."""
    return _get(_own(), field)


def tell(field: str, value: int) -> None:
    """Change a field of the time that this process runs in."""
    struct.pack_into("q", _own(), FIELDS[field], value)


def _get(fields: mmap.mmap, field: str) -> int:
    value: int = struct.unpack_from("q", fields, FIELDS[field])[0]
    return value


def _own() -> mmap.mmap:
    global _OWN
    if _OWN is None:
        _OWN = _mapped(Path(os.environ[VARIABLE]))
    return _OWN


_OWN: mmap.mmap | None = None


def _mapped(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)
