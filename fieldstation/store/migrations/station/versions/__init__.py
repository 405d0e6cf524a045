"""Migrations of the station database: what a file did once stays as it is."""
