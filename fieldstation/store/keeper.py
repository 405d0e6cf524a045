"""Sees to it that station.db stays the file that it was, and whole, and that nothing of it is lost.

A file that somebody removes or replaces while it is open goes on under no name, and would be gone
with the process: it is copied back to its name. A damaged one is restored (`repair`).
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, text

from fieldstation.clock import US_PER_S, Clock
from fieldstation.store.database import Database
from fieldstation.store.errors import DamagedDatabase, StoreUnavailable
from fieldstation.store.repair import Salvage, finish, put_in_place, remove, salvage
from fieldstation.store.sqlite import connect_reader
from fieldstation.store.station_db import StationStore
from fieldstation.store.station_tables import SCHEMA

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
PAGES_AT_ONCE = 1_000
LEAP = 1_000_000
"""How far the order goes on beyond the last number known: those behind it may have been given"""
LAST = text("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'")
FORGET = text("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
GO_ON = text("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', :last)")

Beat = Callable[[], None]


def was_killed(path: Path) -> bool:
    """Return whether whoever wrote a file last did not close it; ask before it is opened."""
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def open_station_db(path: Path, backups: Path, clock: Clock, *, has_run: bool) -> StationStore:
    """Return the station's own database: made where there is none, restored where it is damaged.

    Args:
        backups: the folder of its copies.
        has_run: whether this station ran before, so that a missing file is a loss.

    Raises:
        NewerDatabase: a newer fieldstation made it.
        StoreError: it cannot be used; the text says why.
    """
    finish(path)
    is_lost = has_run and not (path.exists() and path.stat().st_size)
    try:
        store = StationStore(path, clock)
    except DamagedDatabase:
        saved = save(path, backups, clock)
        aside = put_in_place(saved.file, path, "damaged", clock)
        log.error("%s: %s; the damaged file is %s", path, saved, aside)
        store = StationStore(path, clock)
    if is_lost:
        log.error("%s was gone: what waited in it is lost, and a new one was made", path)
        with store.database.write() as connection:
            _go_on_after(connection, clock.wall() // US_PER_S)
    return store


def save(path: Path, backups: Path, clock: Clock, beat: Beat = lambda: None) -> Salvage:
    """Make another station.db of what can be read of a damaged one.

    Raises:
        StoreUnavailable: the disk does not take it.
    """

    def leap(connection: Connection) -> None:
        last: int = connection.execute(LAST).scalar_one()
        # Where no number is known, none that was given is higher than the seconds since 1970.
        _go_on_after(connection, last + LEAP if last else clock.wall() // US_PER_S)

    return salvage(path, SCHEMA, backups, leap, beat)


def _go_on_after(connection: Connection, last: int) -> None:
    connection.execute(FORGET)
    connection.execute(GO_ON, {"last": last})


class Keeper:
    """Looks after the file of an open database. For the thread that writes it."""

    def __init__(self, database: Database, path: Path, backups: Path, clock: Clock) -> None:
        self._database = database
        self._path = path
        self._backups = backups
        self._clock = clock
        self._news = ""
        self._hold()

    @property
    def news(self) -> str:
        """Return what happened to the file in this run, for health; empty where nothing did."""
        return self._news

    def look(self, beat: Beat = lambda: None) -> None:
        """Put back a file that is gone from its place, restore one that is damaged.

        Args:
            beat: called now and then.

        Raises:
            StoreUnavailable: the disk does not take it now.
        """
        if self._identity() != self._opened:
            self._put_back(beat)
        elif self._database.damaged.is_set():
            self._restore(beat)

    def close(self) -> None:
        """Let the file go; before the database is closed, which takes its -wal in."""
        self._held.close()

    def _hold(self) -> None:
        """Open it once more: a removed file lives as long as this connection."""
        self._held = connect_reader(self._path, TIMEOUT_S)
        self._opened = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _put_back(self, beat: Beat) -> None:
        copy = self._path.with_name(self._path.name + ".part")
        try:
            remove(copy)
            with closing(sqlite3.connect(copy)) as target:
                self._held.backup(target, pages=PAGES_AT_ONCE, progress=lambda *_: beat())
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"{self._path} was removed or replaced, and cannot be put back: {error}"
            ) from error
        aside = self._exchange(copy, "replaced")
        other = f"; the other is {aside}" if aside.exists() else ""
        self._tell(f"{self._path} was removed or replaced, and was put back{other}")

    def _restore(self, beat: Beat) -> None:
        saved = save(self._path, self._backups, self._clock, beat)
        aside = self._exchange(saved.file, "damaged")
        self._database.damaged.clear()
        self._tell(f"{self._path} was damaged: {saved}; the damaged file is {aside}")

    def _exchange(self, whole: Path, why: str) -> Path:
        """Put a file in the place of the open one; return what that is called now."""
        with self._database.closed():
            aside = put_in_place(whole, self._path, why, self._clock)
        before = self._held
        self._hold()
        before.close()
        return aside

    def _tell(self, news: str) -> None:
        log.error("%s", news)
        self._news = news
