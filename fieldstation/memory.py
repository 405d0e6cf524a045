"""Keeps the C library from hoarding: a station runs for months in little memory."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_ARENA_MAX = -1, -8
"""malloc.h of the GNU C library"""
TRIM_THRESHOLD = 128 * 1024


def give_back_freed_memory() -> None:
    """Return freed memory to the system early, and keep one heap for all threads.

    glibc's own habits (a heap a thread, a threshold that grows) cost a live station about 15 MB
    (`bench/run_live.py`). Another C library has other habits: then nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    mallopt(M_ARENA_MAX, 1)
