"""The station's own database and the log."""
