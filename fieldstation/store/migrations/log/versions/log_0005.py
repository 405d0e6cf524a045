"""Local dates as a column, so that counting looks up no row; days and hours of all; pictures.

Everything is made from the rows that are there: minutes for ten millions, in one transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "log_0005"
down_revision = "log_0004"

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
FILL = """
INSERT INTO everywhere
SELECT substr(started_local, 1, {length}), scientific_name, count(*), max(probability),
       min(started_at), max(started_at)
FROM detections GROUP BY 1, 2
"""


def upgrade() -> None:
    """Make the column, the table and the indices, and fill them."""
    # Before the rows grow: an index by an expression would be written anew with each of them.
    op.drop_index("detections_day", "detections")
    op.drop_index("detections_station_day", "detections")
    op.add_column("detections", sa.Column("local_date", sa.Text))
    op.execute("UPDATE detections SET local_date = substr(started_local, 1, 10)")
    counted = ["local_date", "scientific_name", "started_at", "probability"]
    op.create_index("detections_day", "detections", counted)
    own = ["station", "local_date", "scientific_name"]
    op.create_index("detections_station_day", "detections", own)
    op.drop_index("coverage_sums", "coverage")
    op.create_index("coverage_station", "coverage", ["station", "started_at"])
    op.create_index("jobs_newest", "jobs", ["state", "started_at"])
    op.create_index("jobs_ended_at", "jobs", ["ended_at"])
    _find_images()
    _create_everywhere()
    _show_the_column()


def _find_images() -> None:
    """Let pictures be found by their events' time and species, and those that are there by age."""
    op.add_column("images", sa.Column("started_at", sa.BigInteger))
    op.add_column("images", sa.Column("scientific_name", sa.Text))
    for column in ("started_at", "scientific_name"):
        op.execute(
            f"UPDATE images SET {column} ="
            f" (SELECT {column} FROM detections WHERE detections.event_id = images.event_id)"
        )
    op.create_index("images_started_at", "images", ["started_at"])
    op.create_index("images_station", "images", ["station", "started_at"])
    op.create_index("images_species", "images", ["scientific_name", "started_at"])
    op.drop_index("images_made_at", "images")
    is_there = sa.text("file IS NOT NULL")
    op.create_index(
        "images_there",
        "images",
        ["made_at"],
        sqlite_where=is_there,
        postgresql_where=is_there,
    )


def _create_everywhere() -> None:
    op.create_table(
        "everywhere",
        sa.Column("span", sa.Text, primary_key=True),
        sa.Column("scientific_name", sa.Text, primary_key=True),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("max_probability", sa.Double, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    for length in (len("2026-05-01"), len("2026-05-01T06")):
        op.execute(FILL.format(length=length))


def _show_the_column() -> None:
    """Let the view tell the column that has the indices."""
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
               local_date, substr(started_local, 12, 8) AS local_time, timezone,
               latitude, longitude, place, clip, source, encoder_id, n_windows,
               {received} AS received, started_at
        FROM detections
        """
    )
