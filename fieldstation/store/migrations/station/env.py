"""Run by Alembic, on the connection and in the transaction that `schema.py` opened."""

from __future__ import annotations

from alembic import context

from fieldstation.store.station_tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
