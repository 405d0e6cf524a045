"""Alembic environment of the log database."""
