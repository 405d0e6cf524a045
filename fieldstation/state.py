"""The state folder: what a station keeps between runs, and the lock that makes it one station.

station.key   random, made at the first start; who this station is, whatever its name
station.lock  held while a station runs; names its process, and where its vitals are
station.db    events, outbox, coverage          log.db     the log (unless configured away)
clips/        recordings of events              backups/   nightly copies
images/       pictures of events                worker/    places of those who paint
broker/       the embedded broker's own         bundles/   models added by hand
ageing.json   the time by which things grow old looked.json  the last look for damage
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldstation.errors import MendableError, PassingError

DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
LOCK = "station.lock"
VITALS_BYTES = 8_192
"""Health usually takes a quarter of it: the file keeps its size, and needs no room when renewed"""
PID_BYTES = 12
ASKING_S = 0.5
"""Longer than `holder` has the lock"""


class StateError(MendableError):
    """The state folder cannot be used."""


class StateUnavailable(StateError, PassingError):
    """The disk does not take anything now; a later start may succeed."""


@dataclass(frozen=True, slots=True)
class State:
    """Paths below one folder; nothing is made until `prepare`."""

    folder: Path

    @property
    def station_db(self) -> Path:
        """Return the running station's own database."""
        return self.folder / "station.db"

    @property
    def log_db(self) -> Path:
        """Return the log, where the configuration names no other."""
        return self.folder / "log.db"

    @property
    def clips(self) -> Path:
        """Return the folder of recordings."""
        return self.folder / "clips"

    @property
    def images(self) -> Path:
        """Return the folder of pictures."""
        return self.folder / "images"

    @property
    def backups(self) -> Path:
        """Return the folder of nightly copies."""
        return self.folder / "backups"

    @property
    def broker(self) -> Path:
        """Return the embedded broker's folder."""
        return self.folder / "broker"

    def log_url(self, database: str) -> str:
        """Return the SQLAlchemy url of the log: the one given, else SQLite in this folder."""
        return database or f"sqlite:///{self.log_db}"

    def prepare(self) -> None:
        """Make the folder, readable by the group, and see that it can be written.

        Raises:
            StateError: it cannot.
        """
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            probe = self.folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _refusal(error, f"state folder {self.folder}") from error

    def key(self) -> str:
        """Return the station's key, made at the first call.

        Raises:
            StateError: the file is damaged, or cannot be written.
        """
        return self.keep_key(self.draw_key())

    def draw_key(self) -> str:
        """Return the station's key, or one for a new station that nothing keeps yet.

        Raises:
            StateError: the file is damaged.
        """
        return self._read_key() if self._key.exists() else secrets.token_hex(8)

    def keep_key(self, key: str) -> str:
        """Keep a drawn key unless one is kept; return the one that is.

        Raises:
            StateError: it cannot be written, or the file is damaged.
        """
        if not self._key.exists():
            try:
                self._write_key(key)
            except OSError as error:
                raise _refusal(error, str(self._key)) from error
        return self._read_key()

    @property
    def has_run(self) -> bool:
        """Return whether a station ever came to run here."""
        return self.told_vitals() is not None

    @property
    def _key(self) -> Path:
        return self.folder / "station.key"

    def _write_key(self, key: str) -> None:
        """Write the key in one step: half a key, on a full disk, would end every later start."""
        drawn = self._key.with_name(f".station.key-{os.getpid()}")
        try:
            with os.fdopen(os.open(drawn, os.O_WRONLY | os.O_CREAT, 0o640), "w") as file:
                file.write(key + "\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # of another process that began at the same moment
                os.link(drawn, self._key)
        finally:
            drawn.unlink(missing_ok=True)

    def _read_key(self) -> str:
        path = self._key
        key = path.read_text(encoding="ascii", errors="replace").strip()
        if len(key) != 16 or not set(key) <= set("0123456789abcdef"):
            raise StateError(
                f"{path} is damaged ({key[:20]!r}): put it back from a backup, or remove it and "
                "the station counts as a new one"
            )
        return key

    def lock(self) -> Lock:
        """Return the lock that one running station holds.

        Raises:
            StateError: another process holds it.
        """
        return Lock(self.folder)

    def chosen_bundle(self) -> str:
        """Return the model that `bundle use` chose; empty where none was."""
        try:
            return (self.folder / "bundle.use").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def choose_bundle(self, name: str) -> None:
        """Make a model the one that `run` takes unless the settings name another."""
        (self.folder / "bundle.use").write_text(name + "\n", encoding="utf-8")

    def vitals(self, environ: Mapping[str, str] = os.environ) -> Vitals:
        """Return where a station that runs on this folder keeps its vitals.

        Args:
            environ: names a folder in memory: systemd's RUNTIME_DIRECTORY, or XDG_RUNTIME_DIR.
        """
        name = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:12]
        runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        for folder in filter(None, (runtime, environ.get("XDG_RUNTIME_DIR", ""))):
            if os.access(folder, os.W_OK):
                return Vitals(Path(folder), f"fieldstation-{name}-")
        return Vitals(self.folder, "")

    def notes(self) -> Vitals:
        """Return small files of what has to be known at the next start, after a power cut too."""
        return Vitals(self.folder, "")

    def told_vitals(self) -> Vitals | None:
        """Return where the station that runs, or ran last, said that its vitals are."""
        try:
            lines = (self.folder / LOCK).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        return Vitals(Path(lines[1]), lines[2]) if len(lines) > 2 else None

    def read_health(self, pid: int) -> dict[str, Any]:
        """Return what the station that runs as process `pid` last said; empty where nothing yet."""
        vitals = self.told_vitals()
        values = vitals.read("health") if vitals else {}
        return values if values.get("pid") == pid else {}

    def holder(self) -> int | None:
        """Return the process id of the station that runs on this folder, or None.

        Writes nothing, so that who may only read the folder can ask too.

        Raises:
            StateError: this user may not read the lock.
        """
        path = self.folder / LOCK
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}: join the folder's group") from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Lock.holder_of(self.folder)
        finally:
            os.close(file)
        return None


def _refusal(error: OSError, what: str) -> StateError:
    """Return what to say of a folder or file that cannot be written."""
    if error.errno in DISK_REFUSES:
        return StateUnavailable(
            f"{what} cannot be written: {error.strerror}: see to the disk; the station tries again"
        )
    return StateError(
        f"{what} cannot be written: {error.strerror}: "
        "name another with --state, or give this one to your user"
    )


@dataclass(frozen=True, slots=True)
class Vitals:
    """Small files that a running station renews again and again, and that survive its kill.

    They lie in memory where there is some: no card wears from them, no full disk stops them.
    """

    folder: Path
    prefix: str

    def path(self, name: str) -> Path:
        """Return the file that holds one of them."""
        return self.folder / f"{self.prefix}{name}.json"

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Renew a file in its place: a full disk has no room for another beside it.

        Raises:
            OSError: the disk refuses even that.
        """
        text = json.dumps(values).encode().ljust(VITALS_BYTES)
        file = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        try:
            os.pwrite(file, text, 0)
            os.ftruncate(file, len(text))
        finally:
            os.close(file)

    def read(self, name: str) -> dict[str, Any]:
        """Return what a file holds; empty where nothing, or where it is being renewed just now."""
        try:
            values = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


class Lock:
    """An advisory lock that dies with its process; the file holds the process id."""

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            raise _refusal(error, str(path)) from error
        try:
            self._take()
        except BlockingIOError as error:
            os.close(self._file)
            raise StateError(
                f"a station (process {self.holder_of(folder)}) already runs on {folder}: stop it, "
                "or give this one its own folder with --state"
            ) from error
        try:  # in its place, padded: a full disk takes that
            os.pwrite(self._file, f"{os.getpid()}\n".encode().rjust(PID_BYTES), 0)
        except OSError as error:
            os.close(self._file)
            raise _refusal(error, str(path)) from error

    def tell(self, vitals: Vitals) -> None:
        """Say to whoever reads the lock where the vitals of its holder are."""
        text = f"{vitals.folder.absolute()}\n{vitals.prefix}\n".encode()
        os.pwrite(self._file, text, PID_BYTES)
        os.ftruncate(self._file, PID_BYTES + len(text))

    def _take(self) -> None:
        """Take the lock; who asks for the holder has it for an instant, which is waited out."""
        gives_up_at = time.monotonic() + ASKING_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > gives_up_at:
                    raise
                time.sleep(ASKING_S / 10)

    @staticmethod
    def holder_of(folder: Path) -> int | None:
        """Return the process id that the lock file names."""
        try:
            return int((folder / LOCK).read_text(encoding="utf-8").partition("\n")[0])
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Let the next station in."""
        os.close(self._file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
