"""What can be wrong with a database, in one line each; drivers' errors are translated here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, ProgrammingError

from fieldstation.errors import MendableError, PassingError

SERVER_BUSY = ("40001", "40P01", "55P03")
"""PostgreSQL: serialization failure, deadlock, lock not available"""
SERVER_FORBIDS = "42501"
"""PostgreSQL: insufficient privilege"""


class StoreError(MendableError):
    """The database cannot be used; the text says what is wrong and what to mend."""


class NewerDatabase(StoreError):
    """A newer fieldstation made the tables."""


class DamagedDatabase(StoreError):
    """The file is no database (any more), or a page of it does not fit; `repair` mends it."""


class StoreUnavailable(StoreError, PassingError):
    """The disk or the server does not take part just now; a later try may succeed."""


class StoreBusy(StoreUnavailable):
    """Another process held the lock for longer than the timeout."""


AWAY = (StoreUnavailable, DamagedDatabase)
"""What a stage waits out: the disk, the lock or the server comes back, and whoever keeps a damaged
database restores it"""


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise the driver's errors as StoreErrors about the database `name`.

    Errors that are nobody's to mend but ours (a constraint, a faulty statement) pass unchanged.
    """
    try:
        yield
    except DBAPIError as error:
        found = _translate(error, name)
        if found is None:
            raise
        raise found from error
    except sqlite3.Error as error:  # past SQLAlchemy
        found = _translate_sqlite(error, name)
        if found is None:
            raise
        raise found from error


def _translate(error: DBAPIError, name: str) -> StoreError | None:
    if isinstance(error.orig, sqlite3.Error):
        return _translate_sqlite(error.orig, name)
    return _translate_server(error, name)


def _translate_sqlite(error: sqlite3.Error, name: str) -> StoreError | None:
    """Judge by SQLite's result code; its low byte is the kind (sqlite.org/rescode.html)."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    code = getattr(error, "sqlite_errorname", "")
    match kind:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return StoreBusy(f"{name} is locked by another process: wait for it, or end it")
        case sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"{name}: the disk is full: free some space")
        case sqlite3.SQLITE_IOERR:
            return StoreUnavailable(
                f"{name}: the disk does not take or give data ({code}): "
                "check its free space, its quota and its health"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnavailable(
                f"{name} cannot be written ({code}): "
                "make the file and its folder writable for this user"
            )
        case sqlite3.SQLITE_CANTOPEN:
            return StoreUnavailable(
                f"{name} cannot be opened: check that it exists and that this user may reach it"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DamagedDatabase(
                f"{name} is damaged or no database ({error}): a station restores its own when it "
                "runs; put the newest backup in the place of another"
            )
    return None


def _translate_server(error: DBAPIError, name: str) -> StoreError | None:
    state = getattr(error.orig, "sqlstate", None)
    said = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    if state in SERVER_BUSY:
        return StoreBusy(f"{name} is busy ({said}): try again")
    if isinstance(error, OperationalError | InternalError) or error.connection_invalidated:
        return StoreUnavailable(
            f"{name} does not answer ({said}): check that the server runs, the url and the password"
        )
    if isinstance(error, ProgrammingError) and state == SERVER_FORBIDS:
        return StoreError(f"{name} refuses ({said}): grant this user the right, or use another")
    return None
