"""Brings a database's tables to the version that this package speaks.

Tables are made by Alembic's migrations alone. Importing Alembic takes longer than opening an
up-to-date database, so it happens only when there is something to do.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, MetaData, inspect, text

from fieldstation.store.database import Database
from fieldstation.store.errors import NewerDatabase, StoreError

VERSION_TABLE = "alembic_version"
UPGRADE_LOCK = 0x6669656C64
"""Key of PostgreSQL's advisory lock: one process upgrades at a time ("field" in ASCII)"""
# Alembic's migration context is one per process.
_alembic = threading.Lock()


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one kind of database."""

    kind: str
    """`station` or `log`: also the folder of its migrations"""
    number: int
    """Of its newest migration"""
    metadata: MetaData

    @property
    def head(self) -> str:
        """Return the newest migration's revision, `log_0001`."""
        return f"{self.kind}_{self.number:04d}"

    @property
    def migrations(self) -> Path:
        """Return the folder of its Alembic environment."""
        return Path(__file__).parent / "migrations" / self.kind


def bring_up_to_date(database: Database, schema: Schema) -> None:
    """Make or upgrade the tables, all in one transaction; an up-to-date database is only read.

    Raises:
        NewerDatabase: a newer fieldstation made it.
        StoreError: of another kind, or cannot be read or written, or is older and readonly.
    """
    with database.read() as connection:
        version = _version(connection, database.name, schema)
    if version == schema.number:
        return
    if database.readonly:
        raise StoreError(
            f"{database.name} has tables of version {version}, this fieldstation reads "
            f"{schema.number}: start the station or the logger once, it brings them up to date"
        )
    with _alembic, database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        # Another process may have done it while we waited for the lock.
        if _version(connection, database.name, schema) != schema.number:
            _upgrade(connection, schema)


def _version(connection: Connection, name: str, schema: Schema) -> int:
    """Return the number of the migration the tables are at; 0 of an empty database."""
    inspector = inspect(connection)
    tables = inspector.get_table_names() + inspector.get_view_names()
    if VERSION_TABLE not in tables:
        if tables:
            raise StoreError(
                f"{name} holds other tables ({', '.join(tables[:3])}): name a database of its own"
            )
        return 0
    row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).first()
    kind, _, number = (str(row[0]) if row else f"{schema.kind}_0").rpartition("_")
    if kind != schema.kind or not number.isdecimal():
        raise StoreError(
            f"{name} is a {kind or 'foreign'} database, not a {schema.kind} one: name another"
        )
    if int(number) > schema.number:
        raise NewerDatabase(
            f"{name} has tables of version {int(number)}, this fieldstation knows "
            f"{schema.number}: update fieldstation, or name another database"
        )
    return int(number)


def _upgrade(connection: Connection, schema: Schema) -> None:
    from alembic import command
    from alembic.config import Config

    # It tells every step at INFO; a station's journal has one line for each bird instead.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, schema.head)
