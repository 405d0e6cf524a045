"""INSERT … ON CONFLICT on both databases, which SQLAlchemy keeps in their dialects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """Return the INSERT of the connection's dialect, which knows ON CONFLICT."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def greater(a: ColumnElement[Any], b: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the greater of two columns: SQLite's max() is PostgreSQL's greatest()."""
    return case((a > b, a), else_=b)


def lesser(a: ColumnElement[Any], b: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the lesser of two columns."""
    return case((a < b, a), else_=b)
