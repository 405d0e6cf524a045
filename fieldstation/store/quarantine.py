"""The log's quarantine: messages that do not fit, each once, the newest kept."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, select

from fieldstation.records import Detection, Interval, Quarantined
from fieldstation.store.fit import TEXT_LIMIT, as_text
from fieldstation.store.log_tables import COUNTERS, QUARANTINE
from fieldstation.store.upsert import insert

PAYLOAD_LIMIT = 65_536
"""Bytes kept of a payload"""
DROPPED = "quarantine_dropped"
"""Counter: messages that left for newer ones"""


def put_away(connection: Connection, messages: Sequence[Quarantined], limit: int) -> None:
    """Write messages; keep the newest `limit` of all and count what had to go."""
    statement = insert(connection, QUARANTINE)
    # A station sends again and again what nobody confirms: one row, counted.
    seen_again = statement.on_conflict_do_update(
        index_elements=["digest"], set_={"n_seen": QUARANTINE.c.n_seen + 1}
    )
    for message in messages:
        connection.execute(seen_again, _values(message))
    if messages:
        _drop_oldest(connection, limit)


def refused(
    record: Detection | Interval, station: str, received_at: int, reason: str
) -> Quarantined:
    """Return what a message's reader let through and the log does not take, as a message."""
    kind = "detection" if isinstance(record, Detection) else "coverage"
    payload = json.dumps(asdict(record), default=_as_base64).encode()
    return Quarantined(received_at, f"fieldstation/{station}/{kind}", payload, reason)


def _drop_oldest(connection: Connection, limit: int) -> None:
    newest_to_go = select(QUARANTINE.c.id).order_by(QUARANTINE.c.id.desc()).offset(limit).limit(1)
    gone = delete(QUARANTINE).where(QUARANTINE.c.id <= newest_to_go.scalar_subquery())
    n = connection.execute(gone).rowcount
    if n:
        statement = insert(connection, COUNTERS)
        more = statement.on_conflict_do_update(
            index_elements=["name"], set_={"n": COUNTERS.c.n + statement.excluded.n}
        )
        connection.execute(more, {"name": DROPPED, "n": n})


def _values(message: Quarantined) -> dict[str, object]:
    digest = hashlib.sha256(message.topic.encode("utf-8", "backslashreplace") + b"\0")
    digest.update(message.payload)
    return {
        "digest": digest.hexdigest(),
        "received_at": message.received_at,
        "topic": as_text(message.topic)[:TEXT_LIMIT],
        "payload": message.payload[:PAYLOAD_LIMIT],
        "n_bytes": len(message.payload),
        "reason": as_text(message.reason)[:TEXT_LIMIT],
        "n_seen": 1,
    }


def _as_base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a record holds no {type(value).__name__}")
