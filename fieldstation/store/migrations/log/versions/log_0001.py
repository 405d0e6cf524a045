"""Detections with the view for people, coverage, the daily roll-up, quarantine and counters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "log_0001"
down_revision = None

UTC_TEXT = {
    "sqlite": (
        "strftime('%Y-%m-%dT%H:%M:%S', {column} / 1000000, 'unixepoch')"
        " || printf('.%06dZ', {column} % 1000000)"
    ),
    "postgresql": (
        "to_char(timestamp 'epoch' + {column} * interval '1 microsecond',"
        """ 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    ),
}
"""Microseconds since 1970 -> ISO 8601, which neither database's SQL says the same way"""


def upgrade() -> None:
    """Make the first tables and the view."""
    _create_detections()
    op.create_table(
        "coverage",
        sa.Column("station_key", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("started_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, primary_key=True),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
    )
    op.create_index("coverage_started_at", "coverage", ["started_at"])
    op.create_table(
        "daily",
        sa.Column("station", sa.Text, primary_key=True),
        sa.Column("local_date", sa.Text, primary_key=True),
        sa.Column("scientific_name", sa.Text, primary_key=True),
        sa.Column("common_name", sa.Text, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("max_probability", sa.Double, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("n_bytes", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("n_seen", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
    )


def _create_detections() -> None:
    op.create_table(
        "detections",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("station_key", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("started_local", sa.Text, nullable=False),
        sa.Column("scientific_name", sa.Text, nullable=False),
        sa.Column("common_name", sa.Text, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("encoder_id", sa.Text, nullable=False),
        sa.Column("n_windows", sa.Integer, nullable=False),
        sa.Column("latitude", sa.Double),
        sa.Column("longitude", sa.Double),
        sa.Column("place", sa.Text),
        sa.Column("clip", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index("detections_started_at", "detections", ["started_at"])
    op.create_index("detections_species", "detections", ["scientific_name", "started_at"])
    op.create_index("detections_station", "detections", ["station", "started_at"])
    _create_view()


def _create_view() -> None:
    # The driver itself, not SQLAlchemy's text(): the time formats are full of colons.
    connection = op.get_bind()
    utc_text = UTC_TEXT[connection.dialect.name]
    started, ended, received = (
        utc_text.format(column=column) for column in ("started_at", "ended_at", "received_at")
    )
    connection.exec_driver_sql(
        f"""
        CREATE VIEW detection_view AS
        SELECT event_id, station, sequence, scientific_name, common_name, probability,
               threshold, {started} AS started, {ended} AS ended,
               CAST(ended_at - started_at AS DOUBLE PRECISION) / 1000000 AS duration_s,
               substr(started_local, 1, 10) AS local_date,
               substr(started_local, 12, 8) AS local_time, timezone,
               latitude, longitude, place, clip, source, encoder_id, n_windows,
               {received} AS received
        FROM detections
        """
    )
