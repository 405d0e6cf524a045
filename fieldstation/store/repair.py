"""Puts another database in the place of a damaged one, with every row that can still be read.

The rows come from the damaged file, page by page, and from the newest backup what is missing then.
The damaged file stays beside it, under a name with the date. Until all is on the disk nothing has
changed; a repair that is broken off begins anew.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import Boolean, Connection, Integer, LargeBinary, Table, Text, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert

from fieldstation.clock import EPOCH, Clock
from fieldstation.store.backup import backups
from fieldstation.store.database import Database, open_file
from fieldstation.store.errors import StoreError, StoreUnavailable
from fieldstation.store.salvage import MAGIC, Row, Value, rows
from fieldstation.store.schema import Schema, bring_up_to_date

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
ROWS_AT_ONCE = 1_000
ASIDE_KEPT = 3
"""Damaged files kept: a card that goes bad must not fill itself with them"""

Beat = Callable[[], None]
Settle = Callable[[Connection], None]
"""What makes rows fit together that were saved one by one"""


@dataclass(frozen=True, slots=True)
class Salvage:
    """A whole database that is not yet in the place of the damaged one."""

    file: Path
    saved: Mapping[str, int]
    """Rows read from the damaged one, by table"""
    restored: Mapping[str, int]
    """Rows that only the backup had"""
    backup: Path | None

    def __str__(self) -> str:
        """Return in words what it holds."""
        source = f"; from {self.backup.name}: {_counted(self.restored)}" if self.backup else ""
        return f"saved {_counted(self.saved)}{source}"


def salvage(
    path: Path,
    schema: Schema,
    folder: Path,
    settle: Settle = lambda connection: None,
    beat: Beat = lambda: None,
) -> Salvage:
    """Make a database of what can be read of a damaged one that nobody writes meanwhile.

    Args:
        path: the damaged file.
        folder: where its backups are.
        settle: called before the new database is closed.
        beat: called every so many rows.

    Raises:
        StoreUnavailable: the disk has no room for another, or cannot be written.
    """
    log.error("%s is damaged: saving what can be read", path)
    part = path.with_name(path.name + ".part")
    try:
        remove(part)
        with closing(open_file(part, timeout_s=TIMEOUT_S)) as database:
            bring_up_to_date(database, schema)
            saved = _copy(database, _salvaged(path, _shapes(database, schema)), beat)
            restored, used = _from_backup(database, schema, backups(path, folder), beat)
            with database.write() as connection:
                settle(connection)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be restored: {error.strerror or error}") from error
    return Salvage(part, saved, restored, used)


def put_in_place(whole: Path, path: Path, why: str, clock: Clock) -> Path:
    """Give a whole database another's name; return what the other is called now.

    Args:
        whole: in the same folder, and open nowhere.
        why: becomes part of the other's name: `station.db.damaged-20260501T041200Z`.

    Raises:
        StoreUnavailable: the disk does not take it; what was whole is whole.
    """
    try:
        return _put_in_place(whole, path, why, clock)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be put back: {error.strerror or error}") from error


def _put_in_place(whole: Path, path: Path, why: str, clock: Clock) -> Path:
    now = EPOCH + timedelta(microseconds=clock.wall())
    aside = path.with_name(f"{path.name}.{why}-{now:%Y%m%dT%H%M%SZ}")
    new = path.with_name(path.name + ".new")
    _sync(whole)
    os.rename(whole, new)  # from here on `finish` would use it
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    # A -shm of another file would be taken for its own.
    Path(f"{path}-shm").unlink(missing_ok=True)
    os.rename(new, path)
    _sync(path.parent)
    # Also by a clock that began in 1970, which makes this one the oldest by its name.
    others = [other for other in put_aside(path) if other != aside]
    for old in others[ASIDE_KEPT - 1 :]:
        remove(old)
    return aside


def put_aside(path: Path) -> list[Path]:
    """Return the files that once had a database's name, newest first."""
    found = path.parent.glob(f"{path.name}.*-*T*Z")
    return sorted(found, key=lambda file: file.name.rpartition("-")[2], reverse=True)


def finish(path: Path) -> None:
    """Give a database its name that was whole when its station was killed."""
    new = path.with_name(path.name + ".new")
    if not path.exists() and new.exists():
        for left_over in (f"{path}-wal", f"{path}-shm"):
            Path(left_over).unlink(missing_ok=True)
        os.rename(new, path)


def is_database(path: Path) -> bool:
    """Return whether a file begins as SQLite's do, whatever may be wrong further on."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a database, with what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _from_backup(
    database: Database, schema: Schema, copies: Iterable[Path], beat: Beat
) -> tuple[Mapping[str, int], Path | None]:
    """Add what only a backup has, of the newest that can be read."""
    for copy in copies:
        try:
            with closing(open_file(copy, timeout_s=TIMEOUT_S, readonly=True)) as old:
                bring_up_to_date(old, schema)
                return _copy(database, _stored(old, schema), beat), copy
        except StoreUnavailable:
            raise
        except StoreError as error:
            log.warning("%s is of no use: %s", copy, error)
    return {}, None


def _stored(database: Database, schema: Schema) -> Iterator[tuple[Table, dict[str, object]]]:
    with database.read() as connection:
        for table in schema.metadata.sorted_tables:
            found = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table))
            for row in found.mappings():
                yield table, dict(row)


def _copy(
    database: Database, found: Iterator[tuple[Table, dict[str, object]]], beat: Beat
) -> Mapping[str, int]:
    """Insert rows that are not there yet; return how many of each table."""
    copied: Counter[str] = Counter()
    while batch := list(islice(found, ROWS_AT_ONCE)):
        by_table: dict[Table, list[dict[str, object]]] = {}
        for table, values in batch:
            by_table.setdefault(table, []).append(values)
        with database.write() as connection:
            for table, some in by_table.items():
                ignoring = insert(table).prefix_with("OR IGNORE")
                copied[table.name] += connection.execute(ignoring, some).rowcount
        beat()
    return {name: n for name, n in copied.items() if n}


# Rows of a damaged file do not say whose they are; their number and kinds of values do.


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the rows of a table stand in a file: not as its definition in the code is ordered."""

    table: Table
    names: Sequence[str]
    numbered_by: str | None
    """The column that is the row's own number, and NULL where it would stand"""

    def fits(self, values: Sequence[Value]) -> bool:
        """Return whether a row may be this table's."""
        # A column that was added later is missing in older rows.
        added = all(self.table.c[name].nullable for name in self.names[len(values) :])
        pairs = zip(self.names, values, strict=False)
        return (
            len(values) <= len(self.names)
            and added
            and all(self._takes(name, value) for name, value in pairs)
        )

    def named(self, row: Row) -> dict[str, object]:
        """Return a row's values by column."""
        values = {**dict.fromkeys(self.names), **dict(zip(self.names, row.values, strict=False))}
        return {**values, self.numbered_by: row.rowid} if self.numbered_by else values

    def _takes(self, name: str, value: Value) -> bool:
        column = self.table.c[name]
        if value is None:
            return bool(column.nullable) or name == self.numbered_by
        if name == self.numbered_by:
            return False
        if isinstance(column.type, Text):
            return isinstance(value, str)
        if isinstance(column.type, LargeBinary):
            return isinstance(value, bytes)
        if isinstance(column.type, Boolean):
            return value in (0, 1)
        # A whole number in a column of reals is stored as an integer.
        return isinstance(value, int) or (
            isinstance(value, float) and not isinstance(column.type, Integer)
        )


def _shapes(database: Database, schema: Schema) -> list[_Shape]:
    with database.read() as connection:
        look = inspect(connection)
        return [
            _Shape(table, [c["name"] for c in look.get_columns(table.name)], _number(table))
            for table in schema.metadata.sorted_tables
        ]


def _number(table: Table) -> str | None:
    (first, *others) = table.primary_key.columns
    # Only a column of exactly this type is the row's own number.
    is_number = first.type.compile(sqlite.dialect()) == "INTEGER"
    return str(first.name) if is_number and not others else None


def _salvaged(damaged: Path, shapes: Sequence[_Shape]) -> Iterator[tuple[Table, dict[str, object]]]:
    names = {shape.table.name for shape in shapes}
    for row in rows(damaged):
        if row.values and row.values[0] in names:
            continue  # of SQLite's own table of counters
        fitting = [shape for shape in shapes if shape.fits(row.values)]
        if fitting:
            best = min(fitting, key=lambda shape: len(shape.names))
            yield best.table, best.named(row)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _counted(rows_of: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(rows_of.items())) or "nothing"
