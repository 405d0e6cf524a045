"""What every source of sound is: an iterator of chunks that can be closed from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from fieldstation.records import AudioChunk

OnWait = Callable[[str], None]
"""Told the cause (`microphone`, …) at least every 0.5 s while a source has nothing to give."""


def ignore_wait(cause: str) -> None:
    """Do nothing about a wait: for callers without a watchdog or a coverage ledger."""


class AudioSource(Protocol):
    """A microphone, a file, a folder or a pipe."""

    @property
    def description(self) -> str:
        """Return one line for people: what is listened to."""
        ...

    @property
    def live(self) -> bool:
        """Return whether sound that is not taken in time is lost; a file waits instead."""
        ...

    @property
    def problem(self) -> str:
        """Return what is wrong with the source just now, and the mend; empty when all is well."""
        ...

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield chunks in order until the source ends or is closed."""
        ...

    def close(self) -> None:
        """End the iteration within a second; from any thread, any number of times."""
        ...
