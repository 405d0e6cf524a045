"""An open database and its transactions, on SQLite or PostgreSQL.

Whatever a driver raises inside `read()` or `write()` comes out as a StoreError where a person or
a retry can do something about it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError

from fieldstation.errors import redacted
from fieldstation.store import sqlite
from fieldstation.store.errors import DamagedDatabase, StoreError, translated

POSTGRES_NAMES = ("postgresql", "postgres", "postgresql+psycopg")
POSTGRES_DRIVER = "postgresql+psycopg"


class Gate:
    """Lets many in, or one that is alone: a file is exchanged only while nobody has it open."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()
        """How deep a thread is in"""
        self._is_closed = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be one of many; wait while somebody is alone, unless this thread is in already."""
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed or self._inside[thread] > 0)
            self._inside[thread] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[thread] -= 1
                self._inside += Counter()  # forgets those that are at 0
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all have left, and keep others out."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._is_closed = False
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Database:
    """An engine and the name that people know it by."""

    engine: Engine
    name: str
    """The file, or the url without its password"""
    readonly: bool = False
    gate: Gate = field(default_factory=Gate)
    damaged: threading.Event = field(default_factory=threading.Event)
    """Set once a page of the file did not fit, whoever met it"""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the database.

        Raises:
            StoreError: it cannot be read.
        """
        with self._connected() as connection:
            if connection.dialect.name == "postgresql":  # which else sees a new one each query
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in a write transaction: all of it is committed at the end, or none.

        Raises:
            StoreBusy: another process writes for longer than the timeout.
            StoreError: it cannot be written.
        """
        with self._connected() as connection:
            connection.execution_options(**{sqlite.BEGIN: "BEGIN IMMEDIATE"})
            with connection.begin():
                yield connection

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Have no connection open until the block ends; others wait."""
        with self.gate.alone():
            self.engine.dispose()
            yield

    def close(self) -> None:
        """Close every connection; SQLite then takes its -wal file back into the database."""
        self.engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self.gate.inside(), translated(self.name), self.engine.connect() as connection:
                yield connection
        except DamagedDatabase:
            self.damaged.set()
            raise


def open_file(path: Path, *, timeout_s: float, readonly: bool = False) -> Database:
    """Return the SQLite database in a file, which a writer makes if it is missing.

    Raises:
        StoreError: the folder is missing, or there is no file to read.
    """
    if path.is_dir() or (readonly and not path.exists()):
        what = "is a folder" if path.is_dir() else "does not exist yet"
        raise StoreError(f"{path} {what}: name a database, or start the station to make one")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist: make it")
    engine = sqlite.make_engine(path, timeout_s=timeout_s, readonly=readonly)
    return Database(engine, str(path), readonly)


def open_url(text: str, *, timeout_s: float, readonly: bool = False) -> Database:
    """Return the database that a url, or the path of a SQLite file, names.

    Raises:
        StoreError: not a url, another kind of database, or its driver is missing.
    """
    path = file_of(text)
    if path is not None:
        return open_file(path, timeout_s=timeout_s, readonly=readonly)
    url = _parse(text)
    try:
        engine = create_engine(
            url.set(drivername=POSTGRES_DRIVER),
            pool_pre_ping=True,  # a server that restarted costs no transaction
            connect_args={
                "connect_timeout": max(2, round(timeout_s)),  # libpq's least is 2
                "options": f"-c lock_timeout={round(timeout_s * 1000)}",
            },
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{_shown(url)}: {error.name} is not installed: pip install 'fieldstation[postgres]'"
        ) from error
    return Database(engine, _shown(url), readonly)


def file_of(text: str) -> Path | None:
    """Return the SQLite file that a url or path names; None where it is another server's.

    Raises:
        StoreError: not a url, a database in memory, or of another kind.
    """
    if "://" not in text:
        return Path(text)
    url = _parse(text)
    if url.drivername in POSTGRES_NAMES:
        return None
    if not url.database or url.database == ":memory:":
        raise StoreError(
            f"{redacted(text)} is a database in memory; name a file: sqlite:////path/log.db"
        )
    return Path(url.database)


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # whose text may quote a password
        raise StoreError(
            f"{redacted(text)!r} is no database url: sqlite:////path/log.db or "
            "postgresql://user@host/name"
        ) from None
    if url.drivername not in (*POSTGRES_NAMES, "sqlite", "sqlite+pysqlite"):
        raise StoreError(f"{_shown(url)}: {url.drivername} is unknown: use sqlite or postgresql")
    return url


def _shown(url: URL) -> str:
    return redacted(url.render_as_string(hide_password=True))
