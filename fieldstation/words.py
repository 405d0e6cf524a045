"""How counts are said to people."""

from __future__ import annotations


def counted(n: object, noun: str) -> str:
    """Return a count with its noun: `1 event`, `2 events`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
