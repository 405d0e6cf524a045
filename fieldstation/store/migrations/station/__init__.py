"""Alembic environment of the station database."""
