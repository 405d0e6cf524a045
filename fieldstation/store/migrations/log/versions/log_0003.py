"""Pictures: embeddings out of the detections' rows, jobs, images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "log_0003"
down_revision = "log_0002"

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables and move the embeddings."""
    _move_embeddings()
    op.create_table(
        "jobs",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("local_date", sa.Text, nullable=False),
        sa.Column("scientific_name", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("n_failures", sa.Integer, nullable=False),
        sa.Column("n_deaths", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease_ends_at", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_state", "jobs", ["state", "priority"])
    op.create_index("jobs_day", "jobs", ["station", "local_date", "scientific_name"])
    op.create_index("jobs_station", "jobs", ["station", "started_at"])
    _create_images()


def _move_embeddings() -> None:
    op.create_table(
        "embeddings",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_index("embeddings_received_at", "embeddings", ["received_at"])
    op.execute(
        "INSERT INTO embeddings SELECT event_id, embedding, received_at FROM detections"
        " WHERE embedding IS NOT NULL"
    )
    op.drop_column("detections", "embedding")


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("station", sa.Text, nullable=False),
        sa.Column("generator_id", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("is_of_call", sa.Boolean, nullable=False),
        sa.Column("file", sa.Text),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("n_bytes", sa.Integer, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("paint_ms", sa.Double),
        sa.Column("provider", sa.Text),
        sa.Column("published_at", sa.BigInteger),
        sa.UniqueConstraint("event_id", "generator_id", "seed", name="images_identity"),
        sqlite_autoincrement=True,
    )
    op.create_index("images_made_at", "images", ["made_at"])
    op.create_index(
        "images_unpublished",
        "images",
        ["id"],
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    )
