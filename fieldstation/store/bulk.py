"""Hundreds of rows with one statement, on both databases.

SQLite takes rows one after the other (`executemany`), which costs microseconds in the same process.
PostgreSQL takes each column as one array (`unnest`): with a parameter for each value, splitting the
statement at its parameters took the driver more time than writing the rows took the server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Table, Text, bindparam, func, select
from sqlalchemy.dialects import sqlite

from fieldstation.store.upsert import Insert, insert

Row = tuple[Any, ...]
Upsert = Callable[[Insert], Insert]


def insert_new(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Sequence[Row]
) -> set[str]:
    """Insert the rows whose key, their first column, is not there; return those keys.

    Args:
        rows: of different keys, sorted by them: two writers then wait in turn, not in a circle.
    """
    if not rows:
        return set()
    key = table.c[columns[0]]
    if connection.dialect.name == "postgresql":
        statement = insert(connection, table).on_conflict_do_nothing(index_elements=[key])
        inserting = _from_arrays(statement, columns).returning(key)
        return set(connection.execute(inserting, _arrays(columns, rows)).scalars())
    # The transaction holds the only write lock: what is not there now does not come before ours.
    keys = func.json_each(bindparam("keys", type_=Text)).table_valued("value")
    known = select(key).where(key.in_(select(keys.c.value)))
    told = json.dumps([row[0] for row in rows])
    there = set(connection.execute(known, {"keys": told}).scalars())
    new = [row for row in rows if row[0] not in there]
    _one_by_one(connection, table, _plain, columns, new)
    return {row[0] for row in new}


def write_rows(
    connection: Connection,
    table: Table,
    upsert: Upsert,
    columns: tuple[str, ...],
    rows: Sequence[Row],
) -> None:
    """Insert rows, or do what `upsert` says about a conflict.

    Args:
        upsert: a function of a module: what it returns is kept for the next time.
        rows: of different primary keys, sorted by them.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        statement = upsert(insert(connection, table))
        connection.execute(_from_arrays(statement, columns), _arrays(columns, rows))
    else:
        _one_by_one(connection, table, upsert, columns, rows)


def _plain(statement: Insert) -> Insert:
    return statement


def _one_by_one(
    connection: Connection,
    table: Table,
    upsert: Upsert,
    columns: tuple[str, ...],
    rows: Sequence[Row],
) -> None:
    if not rows:
        return
    # Past SQLAlchemy's own executemany, which makes a dictionary of each row: a third of the time.
    sql, places = _sqlite_text(table, upsert, columns)
    connection.exec_driver_sql(sql, [tuple(row[i] for i in places) for row in rows])


@cache
def _sqlite_text(
    table: Table, upsert: Upsert, columns: tuple[str, ...]
) -> tuple[str, tuple[int, ...]]:
    """Return the statement, and which of a row's values each of its marks stands for."""
    compiled = upsert(sqlite.insert(table)).compile(
        dialect=sqlite.dialect(), column_keys=list(columns)
    )
    return str(compiled), tuple(columns.index(name) for name in compiled.positiontup or ())


def _from_arrays(statement: Insert, columns: Sequence[str]) -> Insert:
    table = statement.table
    arrays = [func.unnest(bindparam(f"all_{c}", type_=ARRAY(table.c[c].type))) for c in columns]
    return statement.from_select(list(columns), select(*arrays))


def _arrays(columns: Sequence[str], rows: Sequence[Row]) -> dict[str, list[Any]]:
    values = zip(*rows, strict=True)
    return {f"all_{name}": list(column) for name, column in zip(columns, values, strict=True)}
