"""Events, outbox, coverage and meta."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "station_0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("scientific_name", sa.Text, nullable=False),
        sa.Column("common_name", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("encoder_id", sa.Text, nullable=False),
        sa.Column("n_windows", sa.Integer, nullable=False),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("file_path", sa.Text),
        sa.Column("content_hash", sa.Text),
        sa.Column("first_sample", sa.BigInteger),
        sa.Column("clip_state", sa.Text, nullable=False),
        sa.Column("clip_file", sa.Text),
    )
    op.create_index("events_started_at", "events", ["started_at"])
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("retain", sa.Boolean, nullable=False),
        sa.Column("qos", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("confirmed_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "outbox_pending", "outbox", ["sequence"], sqlite_where=sa.text("confirmed_at IS NULL")
    )
    op.create_table(
        "coverage",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.UniqueConstraint("run_id", "started_at", "state", name="coverage_interval"),
        sqlite_autoincrement=True,
    )
    op.create_index("coverage_started_at", "coverage", ["started_at"])
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
