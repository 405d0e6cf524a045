"""Whether the log's tables can hold a value: judged here, before a transaction, on any database.

What a message's schema lets through may still not fit: PostgreSQL refuses a NUL in a text, an
index entry over 2,704 bytes, an integer over 64 bits; SQLite takes a NaN for NULL. A batch that
fails at one row would lose 499 others.
"""

from __future__ import annotations

import math
from dataclasses import fields

from fieldstation import clock
from fieldstation.records import Detection, Interval

INDEXED = ("event_id", "station", "station_key", "scientific_name", "run_id")
INDEXED_LIMIT, TEXT_LIMIT = 250, 4_096
"""Longest texts, in characters"""
INTEGER_LIMIT = 2**31
"""First value too large for n_windows, PostgreSQL's INTEGER"""
BIGINT_LIMIT = 2**63
FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in (Detection, Interval)}


def misfit_detection(detection: Detection) -> str | None:
    """Return why the log cannot hold a detection, or None where it can."""
    if not detection.station:
        return "station is empty"
    for name in ("probability", "threshold"):
        if not 0 <= getattr(detection, name) <= 1:
            return f"{name} is {getattr(detection, name)}; it lies in 0..1"
    return misfit_values(detection) or _misfit_time(detection)


def misfit_values(record: Detection | Interval) -> str | None:
    """Return which field of a record no column can hold, and why; None where all fit."""
    for name in FIELDS[type(record)]:
        value = getattr(record, name)
        if value is None or (
            type(value) is str
            and len(value) <= INDEXED_LIMIT
            and value.isascii()
            and "\0" not in value
        ):
            continue  # nearly every one, in half the time
        reason = misfit(name, value)
        if reason:
            return f"{name} {reason}"
    return None


def misfit(name: str, value: object) -> str | None:
    """Return why the column `name` cannot hold a value, or None where it can."""
    if isinstance(value, str):
        limit = INDEXED_LIMIT if name in INDEXED else TEXT_LIMIT
        if len(value) > limit:
            return f"has {len(value)} characters; at most {limit}"
        return None if value == as_text(value) else "holds a character that is no text"
    if isinstance(value, int):
        limit = INTEGER_LIMIT if name == "n_windows" else BIGINT_LIMIT
        return None if -limit <= value < limit else f"is {value}; below {limit}"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {value}"
    return None


def as_text(value: str) -> str:
    """Return a text with what no database writes (NUL, lone surrogates) spelled out."""
    if value.isascii() and "\0" not in value:
        return value  # nearly every text, ten times as fast
    return value.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _misfit_time(detection: Detection) -> str | None:
    try:
        clock.local(detection.started_at, detection.timezone)
        clock.local(detection.ended_at, detection.timezone)
        # zoneinfo raises OSError for a name that is a folder of its database.
    except (LookupError, ValueError, OverflowError, OSError) as error:
        return f"timezone {detection.timezone!r} gives its instants no date: {error}"
    return None
