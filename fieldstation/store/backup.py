"""Dated copies of a SQLite database, taken while it is written.

SQLite's backup copies one state of the database, with what is in its -wal, into one file: a part at
a time, each brought to the disk, with a pause as long as it took. So whoever writes meanwhile waits
for no more than one part. (`VACUUM INTO` fills the disk's queue: commits beside it took seconds.)
The copy gets its name only when it is whole, checked and on the disk.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

from fieldstation.clock import EPOCH, Clock, SystemClock
from fieldstation.store import sqlite
from fieldstation.store.database import file_of, open_file
from fieldstation.store.errors import DamagedDatabase, StoreError, translated

CLOCK = SystemClock()
TIMEOUT_S = 5.0
PAGES = 128
"""Copied at once: half a MB, 50 ms of a slow card"""
LONGEST_PAUSE_S = 1.0
RETRY_S = 0.0005
"""Less than a commit lasts"""
ROOM = 1.2
"""Of its size must be free for a copy: the rest is for what is written meanwhile"""


def back_up(database: str | Path, folder: Path, keep: int, clock: Clock = CLOCK) -> Path:
    """Copy a SQLite database into `folder` and delete all but it and the newest copies.

    Args:
        database: its file, or a url.
        folder: made if it is missing; `log-20260501T023000Z.db` is a copy of log.db.
        keep: copies of this database to keep, at least 1.
        clock: dates the copy.

    Raises:
        StoreError: not SQLite, not readable, damaged, or the folder cannot be written.
    """
    path = file_of(str(database))
    if path is None:
        raise StoreError(
            "a PostgreSQL log is backed up by its own tools, which know the whole server: "
            "pg_dump --format=custom --file=log.dump --dbname=URL"
        )
    now = EPOCH + timedelta(microseconds=clock.wall())
    copy = folder / f"{path.stem}-{now:%Y%m%dT%H%M%SZ}.db"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{path.stem}-*.db.tmp"):
            left_over.unlink()  # of a backup that was killed
        _write_copy(path, copy)
        # This one stays, though a clock that began in 1970 makes it the oldest by its name.
        others = [other for other in backups(path, folder) if other != copy]
        for old in others[keep - 1 :]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} takes no backup ({error.strerror or error}): "
            "make it writable for this user, or name another folder"
        ) from error
    return copy


def backups(database: Path, folder: Path) -> list[Path]:
    """Return the copies of a database in a folder, newest first."""
    name = re.compile(re.escape(database.stem) + r"-\d{8}T\d{6}Z\.db")
    return sorted((p for p in folder.glob("*.db") if name.fullmatch(p.name)), reverse=True)


def _write_copy(path: Path, copy: Path) -> None:
    """Copy under another name first, so that what bears the name is whole."""
    temporary = copy.with_name(copy.name + ".tmp")
    try:
        with closing(_snapshot(path)) as source:
            _see_room(path, copy.parent)
            _copy(source, temporary)
            _let_go(source, path)
        _check(temporary, path)
        _sync(temporary)
        temporary.replace(copy)
        _sync(copy.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _snapshot(path: Path) -> sqlite3.Connection:
    """Return a connection that sees one state of a database for as long as it is open.

    Raises:
        StoreError: it is missing, damaged or cannot be read.
    """
    if not path.exists():
        raise StoreError(f"{path} does not exist yet: start the station to make it")
    with translated(str(path)):
        source = sqlite.connect_reader(path, TIMEOUT_S)
        # Without a transaction of ours, every commit beside us would begin the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return source


def _see_room(path: Path, folder: Path) -> None:
    """Raise where a copy would fill the disk, on which perhaps the database itself must grow."""
    needed, free = path.stat().st_size * ROOM, shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"{folder} has {free / 1e9:.1f} GB left, a copy of {path} wants {needed / 1e9:.1f}: "
            "free some space, or keep fewer copies (schedule.backups_kept)"
        )


def _copy(source: sqlite3.Connection, copy: Path) -> None:
    with translated(str(copy)), closing(sqlite3.connect(copy)) as target:
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")  # _Pace and _write_copy see to it
        source.backup(target, pages=PAGES, progress=_Pace(copy))
        target.execute("PRAGMA journal_mode = DELETE")  # the copy says WAL, as the database does


def _let_go(source: sqlite3.Connection, path: Path) -> None:
    """End a snapshot, and write into the database what its -wal gathered meanwhile.

    The next commit would, and it comes within milliseconds: so all is ready before, and where one
    just looks whether it may, we are next.
    """
    with (
        suppress(sqlite3.Error),  # a reader may copy too; then the writer does it
        closing(sqlite.connect_writer(path, TIMEOUT_S, may_create=False)) as connection,
    ):
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.close()
        ends_at = time.monotonic() + LONGEST_PAUSE_S
        # PASSIVE: nobody waits for us. Its answer begins with whether another one is at it.
        while connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0]:
            if time.monotonic() > ends_at:
                break
            time.sleep(RETRY_S)


class _Pace:
    """Waits after each part of a copy until it is on the disk, and then once more as long."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._began = time.monotonic()

    def __call__(self, _status: int, _remaining: int, _total: int) -> None:
        _sync(self._copy)
        time.sleep(min(time.monotonic() - self._began, LONGEST_PAUSE_S))
        self._began = time.monotonic()


def _check(copy: Path, path: Path) -> None:
    database = open_file(copy, timeout_s=TIMEOUT_S, readonly=True)
    try:
        with database.read() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    finally:
        database.close()
    if found != "ok":
        raise DamagedDatabase(
            f"{path} is damaged, or the disk of {copy.parent} is: a copy came out with {found}"
        )


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
