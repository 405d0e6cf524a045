"""Disks that fail a station: full, forbidden, locked, slow; each as a context that ends well.

A `Disk` is an ext4 of its own in a file, which needs root to be mounted. What it holds is never
asked of our own code.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BENT = Path(__file__).parent / "bent.c"
MB = 1 << 20
FIELDS = {"wall_offset_us": 0, "sync_delay_us": 8, "n_syncs": 16}
"""Of `struct bent`, by their place"""


def cannot_mount() -> str:
    """Return why no disk can be mounted here; empty where one can."""
    if os.geteuid() != 0:
        return "needs root to mount a disk"
    missing = [tool for tool in ("mkfs.ext4", "mount", "chattr") if not _which(tool)]
    return f"needs {', '.join(missing)}" if missing else ""


def _which(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


class Disk:
    """An ext4 of a few megabytes, mounted on a folder."""

    def __init__(self, image: Path, folder: Path, size_mb: int = 64) -> None:
        self.folder = folder
        self._image = image
        folder.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(size_mb * MB)
        _do("mkfs.ext4", "-q", "-m", "0", str(image))
        self.mount()

    def mount(self) -> None:
        """Mount it, as a boot does: what the journal has is played back."""
        _do("mount", "-o", "loop", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Take it away; everybody must have left."""
        _do("umount", str(self.folder))

    def check(self) -> None:
        """Repair the file system, as a boot does after a fault."""
        subprocess.run([_which("e2fsck") or "e2fsck", "-fy", self._image], capture_output=True)

    def give_up(self) -> None:
        """Make it read-only at once, as ext4 does by itself when its device fails."""
        _do("mount", "-o", "remount,abort", str(self.folder))

    def end(self) -> None:
        """Take it away, whoever still uses it."""
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave not a byte free."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for step in (MB, 4_096, 1):
                try:
                    while file.write(bytes(step)):
                        pass
                except OSError:
                    continue
        try:
            yield
        finally:
            ballast.unlink()


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    """Let no file in a folder be written, by nobody, though it is open."""
    files = [str(file) for file in folder.iterdir() if file.is_file() and _forbid(file)]
    try:
        yield
    finally:
        _do("chattr", "-i", *files)


def _forbid(file: Path) -> bool:
    """Let nobody write a file; False where it is gone: a station at work removes some."""
    done = subprocess.run([_which("chattr") or "chattr", "+i", file], capture_output=True)
    assert done.returncode == 0 or not file.exists(), done.stderr
    return done.returncode == 0


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold a database's write lock from the sqlite3 shell."""
    shell = subprocess.Popen(
        ["sqlite3", str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write(".timeout 5000\nBEGIN IMMEDIATE;\nSELECT 'held';\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "held\n"
    try:
        yield
    finally:
        shell.communicate("ROLLBACK;\n")


class Bent:
    """A process's own view of the clock and the disk, changed while it runs (see bent.c)."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "bent"
        self._file.write_bytes(bytes(8 * len(FIELDS)))
        library = folder / "bent.so"
        _do("gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(BENT), "-ldl")
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FIELDSTATION_TEST_BENT": str(self._file),
        }

    def set(self, field: str, value: int) -> None:
        """Change a field of `struct bent`."""
        with self._file.open("r+b", buffering=0) as file:
            file.seek(FIELDS[field])
            file.write(struct.pack("q", value))

    def get(self, field: str) -> int:
        """Return a field of `struct bent`."""
        value: int = struct.unpack_from("q", self._file.read_bytes(), FIELDS[field])[0]
        return value

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Let every sync take so long."""
        self.set("sync_delay_us", round(seconds * 1e6))
        try:
            yield
        finally:
            self.set("sync_delay_us", 0)


def _do(*command: str) -> None:
    program = _which(command[0]) or command[0]
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
