"""Names of events: by time where the world is heard once, by content where a file can be replayed.

A file event's id is UUIDv5 of everything that decides the event, so that a replay of the same
file by the same encoder at the same station writes no second row.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from uuid import UUID, uuid5

FILE_EVENTS = UUID("680ae9f7-c912-5c9c-9366-bdb9bb0b4839")
"""Namespace of `file_event_id`: UUIDv5 of `event.fieldstation` in the DNS namespace. Never change
it: every id of a replayed file hangs on it."""


def uuid7(at: int, random: Callable[[int], bytes] = secrets.token_bytes) -> UUID:
    """Return a UUIDv7 of an instant; ids of later microseconds sort later.

    Args:
        at: microseconds UTC, 0 or later.
        random: gives that many random bytes.

    Source: RFC 9562, section 5.7; sub-millisecond order by its section 6.2, method 3.
    """
    milliseconds, microseconds = divmod(at, 1_000)
    if not 0 <= milliseconds < 1 << 48:
        raise ValueError(f"a UUIDv7 cannot name the instant {at}: 48 bits of milliseconds")
    fraction = microseconds * 4096 // 1_000  # 12 bits
    tail = int.from_bytes(random(8)) & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail)


def file_event_id(
    station: str, content_hash: str, scientific_name: str, first_sample: int, encoder_id: str
) -> UUID:
    """Return the id that an event of a file has, whenever and wherever the file is replayed.

    Args:
        station: the station's name.
        content_hash: sha256 of the file's bytes, hexadecimal; its path does not matter.
        scientific_name: the label's; its common name does not matter.
        first_sample: of the event's first window, at the file's own rate.
        encoder_id: the bundle's.
    """
    # JSON, because a separator could occur in a name
    parts = [station, content_hash, scientific_name, first_sample, encoder_id]
    return uuid5(FILE_EVENTS, json.dumps(parts, ensure_ascii=True, separators=(",", ":")))
