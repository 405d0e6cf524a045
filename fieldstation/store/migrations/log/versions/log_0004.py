"""Questions of millions of detections: totals, names, indices by the local date.

Everything is made from the rows that are there: minutes for ten millions, in one transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "log_0004"
down_revision = "log_0003"

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
"""Microseconds since 1970 -> ISO 8601, as in log_0001"""
LOCAL_DATE = "substr(started_local, 1, 10)"
EDGES = (*(step / 20 for step in range(20)), 0.99)
BAND = "CASE {} ELSE 0.0 END".format(
    " ".join(f"WHEN probability >= {edge!r} THEN {edge!r}" for edge in reversed(EDGES[1:]))
)
"""The lower edge of a probability's band"""
LEVELS = (
    ("substr(started_local, 1, 7)", "station"),
    ("substr(started_local, 1, 7)", "''"),
    (LOCAL_DATE, "''"),
)
"""Spans and whose: a station's months, everybody's months, everybody's days"""
FILL = """
INSERT INTO totals
SELECT {span}, {station}, scientific_name, {band}, count(*), max(probability),
       min(started_at), max(started_at), max(received_at)
FROM detections GROUP BY 1, 2, 3, 4
"""


def upgrade() -> None:
    """Make tables and indices, and fill them."""
    _create_totals()
    op.create_table(
        "names",
        sa.Column("scientific_name", sa.Text, primary_key=True),
        sa.Column("common_name", sa.Text, primary_key=True),
        sa.Column("told_at", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO names SELECT scientific_name, common_name, max(last_at) FROM daily"
        " GROUP BY scientific_name, common_name"
    )
    op.create_index("detections_day", "detections", [sa.text(LOCAL_DATE)])
    op.create_index("detections_station_day", "detections", ["station", sa.text(LOCAL_DATE)])
    op.create_index("daily_date", "daily", ["local_date"])
    is_long = sa.text("duration_s > 86400")
    op.create_index(
        "coverage_long",
        "coverage",
        ["started_at"],
        sqlite_where=is_long,
        postgresql_where=is_long,
    )
    op.create_index("coverage_sums", "coverage", ["station", "state", "cause", "duration_s"])
    _show_instants()


def _create_totals() -> None:
    op.create_table(
        "totals",
        sa.Column("span", sa.Text, primary_key=True),
        sa.Column("station", sa.Text, primary_key=True),
        sa.Column("scientific_name", sa.Text, primary_key=True),
        sa.Column("band", sa.Double, primary_key=True, autoincrement=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("max_probability", sa.Double, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    for span, station in LEVELS:
        op.execute(FILL.format(span=span, station=station, band=BAND))


def _show_instants() -> None:
    """Let the view tell `started_at` too, by which its rows are found and sorted fast."""
    # The driver itself, not SQLAlchemy's text(): the time formats are full of colons.
    connection = op.get_bind()
    utc_text = UTC_TEXT[connection.dialect.name]
    started, ended, received = (
        utc_text.format(column=column) for column in ("started_at", "ended_at", "received_at")
    )
    connection.exec_driver_sql("DROP VIEW detection_view")
    connection.exec_driver_sql(
        f"""
        CREATE VIEW detection_view AS
        SELECT event_id, station, sequence, scientific_name, common_name, probability,
               threshold, {started} AS started, {ended} AS ended,
               CAST(ended_at - started_at AS DOUBLE PRECISION) / 1000000 AS duration_s,
               {LOCAL_DATE} AS local_date,
               substr(started_local, 12, 8) AS local_time, timezone,
               latitude, longitude, place, clip, source, encoder_id, n_windows,
               {received} AS received, started_at
        FROM detections
        """
    )
