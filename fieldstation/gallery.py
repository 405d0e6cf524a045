"""The folder of pictures: one PNG for each, named by event, generator and seed.

A name is made of nothing that could leave the folder. What bears it is whole: it was written under
another name first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from fieldstation.clock import US_PER_S, local
from fieldstation.errors import MendableError, PassingError
from fieldstation.records import Image

FOLDER_MODE, FILE_MODE = 0o750, 0o640
"""The group may look"""
STALE_US = 3_600 * US_PER_S
"""A temporary file of this age is left over from a power cut: none is written for so long"""
DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
SLACK = 0.1
"""More than the limit, at which a folder is taken for one that nobody else cleans"""
LOOK_SHARE = 20
"""It is looked through when a twentieth of its limit has come since"""
_OURS = re.compile(r"\d{4}-\d\d-\d\d/[0-9a-f-]{36}-[0-9a-f]{16}-\d+\.png")
_GENERATOR = re.compile(r"[0-9a-f]{16}")


class GalleryError(PassingError):
    """The folder takes or gives no picture just now: full, read-only or gone."""


class NoFolder(MendableError):
    """What was named can never hold pictures."""


class Gallery:
    """Pictures below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, and see that it takes files; a disk that refuses now may not later.

        Raises:
            NoFolder: it never will.
        """
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            if error.errno not in DISK_REFUSES:
                raise NoFolder(
                    f"{self.folder} can hold no pictures: {error.strerror}: name another folder "
                    "(--images), or give this one to your user"
                ) from error

    def write(self, name: str, png: bytes) -> None:
        """Write a picture in one step; again is no harm.

        Raises:
            GalleryError: the disk takes nothing.
        """
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with self._faults():
            path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            try:
                _write_through(temporary, png)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync(path.parent)

    def has(self, name: str) -> bool:
        """Return whether there is such a file.

        Raises:
            GalleryError: the disk does not say.
        """
        with self._faults():
            return (self.folder / name).is_file()

    def read(self, image: Image) -> bytes | None:
        """Return a picture's PNG; None where it is not there, or not the one that was recorded.

        Raises:
            GalleryError: the disk gives nothing.
        """
        if image.file is None:
            return None
        try:
            with self._faults():
                png = (self.folder / image.file).read_bytes()
        except _Gone:
            return None
        return png if hashlib.sha256(png).hexdigest() == image.sha256 else None

    def remove(self, name: str) -> None:
        """Remove a picture, and its folder if that is empty now.

        Raises:
            GalleryError: it stays.
        """
        path = self.folder / name
        with self._faults(), contextlib.suppress(_Gone):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                path.parent.rmdir()

    def remove_stale(self, now: int) -> None:
        """Remove what a power cut left half-written."""
        for path in self.folder.glob("*/.*.tmp"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime_ns // 1_000 < now - STALE_US:
                    path.unlink()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _Gone(f"{error.filename} is not there") from error
        except OSError as error:
            raise GalleryError(
                f"pictures in {self.folder}: {error.strerror or error}: make room, or give the "
                "folder to this user"
            ) from error


class LimitedGallery(Gallery):
    """A folder that may lie where nobody else removes pictures: on another machine than the log.

    The log's owner removes what is past its time, and tells the log. Where a tenth more has
    gathered all the same, the oldest go; the log is not told, as the owner may have them still.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        super().__init__(folder)
        self._max_bytes = max_bytes
        self._n_new = max_bytes  # nobody has looked yet

    def write(self, name: str, png: bytes) -> None:
        """Write a picture in one step; look now and then whether others must go.

        Raises:
            GalleryError: the disk takes nothing.
        """
        super().write(name, png)
        self._n_new += len(png)
        if self._n_new * LOOK_SHARE > self._max_bytes:
            self._n_new = 0
            self._trim()

    def _trim(self) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        surplus = total - self._max_bytes if total > (1 + SLACK) * self._max_bytes else 0
        for _, size, name in files:
            if surplus <= 0:
                return
            with contextlib.suppress(GalleryError):
                self.remove(name)
                surplus -= size

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Yield when each picture was written, its bytes and its name; nothing that is not ours."""
        for path in self.folder.glob("*/*.png"):
            name = path.relative_to(self.folder).as_posix()
            with contextlib.suppress(OSError):
                if _OURS.fullmatch(name):
                    told = path.stat()
                    yield told.st_mtime_ns, told.st_size, name


class _Gone(GalleryError):
    """There is no such file."""


def picture_name(event_id: str, generator_id: str, seed: int, started_at: int, zone: str) -> str:
    """Return the name of a picture below the folder: by the event's local date.

    Raises:
        ValueError: an id that is none.
    """
    if not _GENERATOR.fullmatch(generator_id):
        raise ValueError(f"generator_id is {generator_id!r}; 16 hexadecimal digits")
    date = local(started_at, zone).date().isoformat()
    return f"{date}/{UUID(event_id)}-{generator_id}-{int(seed)}.png"


def _write_through(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
