"""How this project speaks to SQLite: connection set-up, and who begins a transaction how.

Every writer begins with BEGIN IMMEDIATE: a deferred transaction that reads and then writes is
told `database is locked` at once, whatever the timeout, when another wrote in between.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

BEGIN = "sqlite_begin"
"""Execution option: the statement that begins this connection's transactions; empty: none do"""
UNREACHABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def make_engine(path: Path, *, timeout_s: float, readonly: bool) -> Engine:
    """Return an engine for a SQLite file; nothing is opened yet.

    Args:
        path: the file; a writer makes it where it is missing.
        timeout_s: how long a statement waits for another process's lock.
        readonly: open without writing, not even the tables' upgrade.
    """
    may_create = True

    def connect() -> sqlite3.Connection:
        nonlocal may_create
        if readonly:
            return connect_reader(path, timeout_s)
        connection = connect_writer(path, timeout_s, may_create)
        # A file that is removed later is not quietly another, empty one.
        may_create = False
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin)
    return engine


def connect_writer(path: Path, timeout_s: float, may_create: bool = True) -> sqlite3.Connection:
    """Open a file for reading and writing: WAL, and every commit reaches the disk."""
    connection = _connect(path, "mode=rwc" if may_create else "mode=rw", timeout_s)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL, NORMAL may lose the last commits at a power cut; FULL syncs each of them.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, timeout_s: float) -> sqlite3.Connection:
    """Open a file for reading only, also where this user may not write beside it.

    A WAL database needs its -shm file, which a reader without write permission cannot make. Where
    there is no -wal file nobody has it open and all is in the file itself: `immutable=1` reads
    just that. With a -wal, immutable would hide what it holds: then the error stands.
    """
    try:
        return _probe(_connect(path, "mode=ro", timeout_s))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in UNREACHABLE or not _is_at_rest(path):
            raise
        return _probe(_connect(path, "mode=ro&immutable=1", timeout_s))


def _connect(path: Path, options: str, timeout_s: float) -> sqlite3.Connection:
    # isolation_level=None: the driver begins nothing of its own; `_begin` does.
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,  # the pool gives a connection to one thread at a time
    )


def _probe(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Read something: opening alone touches neither the file nor its -wal."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_at_rest(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return path.is_file() and not (wal.exists() and wal.stat().st_size)


def _begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get(BEGIN, "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)
