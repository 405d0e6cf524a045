"""Alembic environments, one a folder; `schema.py` runs them, there is no alembic.ini."""
