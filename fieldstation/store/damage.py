"""Looks for damage in a SQLite file that is in use, with a reader of its own that gives up."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.sqlite import connect_reader

TIMEOUT_S = 5.0
LONGEST_S = 600.0
"""While it reads, the -wal cannot be taken in: on a slow card a large log is not read to its end"""
STEPS = 1_000
"""Of SQLite's machine between two looks at the clock"""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def find_damage(path: Path, thorough: bool = False, longest_s: float = LONGEST_S) -> str:
    """Return what does not fit in a file; empty where all does.

    Args:
        thorough: whether indices are compared with their tables too.

    Raises:
        StoreUnavailable: it cannot be read now, or not within the time.
    """
    pragma = "PRAGMA integrity_check(1)" if thorough else "PRAGMA quick_check(1)"
    try:
        with (
            closing(connect_reader(path, TIMEOUT_S)) as connection,
            _interrupted_after(longest_s, connection),
        ):
            found = str(connection.execute(pragma).fetchone()[0])
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in DAMAGED:
            return f"{path} is damaged: {error}"
        if code == sqlite3.SQLITE_INTERRUPT:
            raise StoreUnavailable(f"{path} was not read to its end in {longest_s:g} s") from error
        raise StoreUnavailable(f"{path} cannot be read: {error}") from error
    return "" if found == "ok" else f"{path} is damaged: {' '.join(found.split())}"


@contextmanager
def _interrupted_after(seconds: float, connection: sqlite3.Connection) -> Iterator[None]:
    """End a statement in time: between its steps, and within the long one that reads all pages."""
    ends_at = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > ends_at, STEPS)
    timer = threading.Timer(max(0.0, seconds), connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
