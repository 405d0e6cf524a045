"""Recordings of events: a ring of recent audio, a gate for human voices, FLAC files, retention."""
