"""Dated copies of a SQLite database, taken while it is written.

`VACUUM INTO` copies one state of the database into one file without its -wal, and blocks nobody.
The copy gets its name only when it is whole, checked and on the disk.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

from fieldstation.clock import EPOCH, Clock, SystemClock
from fieldstation.store import sqlite
from fieldstation.store.database import file_of, open_file
from fieldstation.store.errors import StoreError

CLOCK = SystemClock()
TIMEOUT_S = 5.0


def back_up(database: str | Path, folder: Path, keep: int, clock: Clock = CLOCK) -> Path:
    """Copy a SQLite database into `folder` and delete all but the newest copies.

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
        for old in backups(path, folder)[keep:]:
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
        _vacuum_into(path, temporary)
        _check(temporary)
        _sync(temporary)
        temporary.replace(copy)
        _sync(copy.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _vacuum_into(path: Path, copy: Path) -> None:
    source = open_file(path, timeout_s=TIMEOUT_S, readonly=True)
    try:
        with source.read() as connection:
            # VACUUM refuses to run inside a transaction.
            connection.execution_options(**{sqlite.BEGIN: ""})
            connection.exec_driver_sql("VACUUM INTO ?", (str(copy),))
    finally:
        source.close()


def _check(copy: Path) -> None:
    database = open_file(copy, timeout_s=TIMEOUT_S, readonly=True)
    try:
        with database.read() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    finally:
        database.close()
    if found != "ok":
        raise StoreError(f"{copy} came out damaged ({found}): check the database and the disk")


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
