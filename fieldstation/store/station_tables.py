"""Tables of station.db, as the newest migration leaves them (a test compares)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from fieldstation.store.schema import Schema

METADATA = MetaData()

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("scientific_name", Text, nullable=False),
    Column("common_name", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("probability", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("encoder_id", Text, nullable=False),
    Column("n_windows", Integer, nullable=False),
    Column("embedding", LargeBinary),
    Column("file_path", Text),
    Column("content_hash", Text),
    Column("first_sample", BigInteger),
    Column("clip_state", Text, nullable=False),
    Column("clip_file", Text),
    Index("events_started_at", "started_at"),
)

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("sequence", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("retain", Boolean, nullable=False),
    Column("qos", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("confirmed_at", BigInteger),
    # Holds only what waits, so that a long-delivered outbox costs the publisher nothing.
    Index("outbox_pending", "sequence", sqlite_where=text("confirmed_at IS NULL")),
    # Without AUTOINCREMENT SQLite gives a pruned row's sequence again.
    sqlite_autoincrement=True,
)

COVERAGE = Table(
    "coverage",
    METADATA,
    Column("sequence", Integer, primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("cause", Text, nullable=False),
    UniqueConstraint("run_id", "started_at", "state", name="coverage_interval"),
    Index("coverage_started_at", "started_at"),
    sqlite_autoincrement=True,
)

META = Table(
    "meta",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

SCHEMA = Schema("station", 1, METADATA)
