"""Tables of the log, as the newest migration leaves them (a test compares)."""

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
LONG_S = 86_400
"""An interval longer than this stands in an index of its own: whoever asks about an hour need look
back no further than a day for the others"""
IS_LONG = text("duration_s > 86400")
"""Spelled as in the index, or the databases would not see that it is the same"""
IS_THERE = text("file IS NOT NULL")

DETECTIONS = Table(
    "detections",
    METADATA,
    Column("event_id", Text, primary_key=True),
    Column("station", Text, nullable=False),
    Column("station_key", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("started_local", Text, nullable=False),
    Column("scientific_name", Text, nullable=False),
    Column("common_name", Text, nullable=False),
    Column("probability", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("encoder_id", Text, nullable=False),
    Column("n_windows", Integer, nullable=False),
    Column("latitude", Double),
    Column("longitude", Double),
    Column("place", Text),
    Column("clip", Text),
    Column("source", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("local_date", Text),
    Index("detections_started_at", "started_at"),
    Index("detections_species", "scientific_name", "started_at"),
    Index("detections_station", "station", "started_at"),
    # All that counting a day by species needs: no row is looked up.
    Index("detections_day", "local_date", "scientific_name", "started_at", "probability"),
    Index("detections_station_day", "station", "local_date", "scientific_name"),
)

COVERAGE = Table(
    "coverage",
    METADATA,
    Column("station_key", Text, primary_key=True),
    Column("run_id", Text, primary_key=True),
    Column("started_at", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, primary_key=True),
    Column("station", Text, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("cause", Text, nullable=False),
    Index("coverage_started_at", "started_at"),
    Index("coverage_long", "started_at", sqlite_where=IS_LONG, postgresql_where=IS_LONG),
    Index("coverage_station", "station", "started_at"),
)

DAILY = Table(
    "daily",
    METADATA,
    Column("station", Text, primary_key=True),
    Column("local_date", Text, primary_key=True),
    Column("scientific_name", Text, primary_key=True),
    Column("common_name", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("max_probability", Double, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Index("daily_date", "local_date"),
)

TOTALS = Table(
    "totals",
    METADATA,
    Column("span", Text, primary_key=True),
    Column("station", Text, primary_key=True),
    Column("scientific_name", Text, primary_key=True),
    Column("band", Double, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("max_probability", Double, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

EVERYWHERE = Table(
    "everywhere",
    METADATA,
    Column("span", Text, primary_key=True),
    Column("scientific_name", Text, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("max_probability", Double, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

NAMES = Table(
    "names",
    METADATA,
    Column("scientific_name", Text, primary_key=True),
    Column("common_name", Text, primary_key=True),
    Column("told_at", BigInteger, nullable=False),
)

QUARANTINE = Table(
    "quarantine",
    METADATA,
    # SQLite numbers rows by itself only in a column of exactly this type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("received_at", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("n_seen", Integer, nullable=False),
    sqlite_autoincrement=True,
)

COUNTERS = Table(
    "counters",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

REPLAYS = Table(
    "replays",
    METADATA,
    Column("station", Text, primary_key=True),
    Column("content_hash", Text, primary_key=True),
    Column("analysis", Text, primary_key=True),
    Column("n_events", Integer, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
)

EMBEDDINGS = Table(
    "embeddings",
    METADATA,
    Column("event_id", Text, primary_key=True),
    Column("embedding", LargeBinary, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Index("embeddings_received_at", "received_at"),
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("station", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("local_date", Text, nullable=False),
    Column("scientific_name", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("n_failures", Integer, nullable=False),
    Column("n_deaths", Integer, nullable=False),
    Column("worker", Text),
    Column("lease_ends_at", BigInteger),
    Column("reason", Text),
    Column("made_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Index("jobs_state", "state", "priority"),
    Index("jobs_day", "station", "local_date", "scientific_name"),
    Index("jobs_station", "station", "started_at"),
    Index("jobs_newest", "state", "started_at"),
    Index("jobs_ended_at", "ended_at"),
    sqlite_autoincrement=True,
)

IMAGES = Table(
    "images",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("generator_id", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("is_of_call", Boolean, nullable=False),
    Column("file", Text),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("n_bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("paint_ms", Double),
    Column("provider", Text),
    Column("published_at", BigInteger),
    Column("started_at", BigInteger),
    Column("scientific_name", Text),
    UniqueConstraint("event_id", "generator_id", "seed", name="images_identity"),
    Index("images_there", "made_at", sqlite_where=IS_THERE, postgresql_where=IS_THERE),
    Index("images_started_at", "started_at"),
    Index("images_station", "station", "started_at"),
    Index("images_species", "scientific_name", "started_at"),
    Index(
        "images_unpublished",
        "id",
        sqlite_where=text("published_at IS NULL"),
        postgresql_where=text("published_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

SCHEMA = Schema("log", 5, METADATA)
