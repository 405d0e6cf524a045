"""Migrations of the log database: what a file did once stays as it is."""
