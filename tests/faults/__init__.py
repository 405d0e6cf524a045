"""Faults against the real part: what was played, beside what sqlite3 and mosquitto_sub read."""
