"""Which recordings were replayed into this log, so that a replay goes on where it stopped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "log_0002"
down_revision = "log_0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "replays",
        sa.Column("station", sa.Text, primary_key=True),
        sa.Column("content_hash", sa.Text, primary_key=True),
        sa.Column("analysis", sa.Text, primary_key=True),
        sa.Column("n_events", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("finished_at", sa.BigInteger, nullable=False),
    )
