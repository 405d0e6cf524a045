"""The analysis stage: pulls a source through the station, and keeps the ledger meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fieldstation.audio.level import Level, Meter
from fieldstation.audio.source import AudioSource
from fieldstation.records import AudioChunk
from fieldstation.station import Station


class Ledger(Protocol):
    """What is told of a source's chunks, waits and end."""

    def waited(self, cause: str) -> None:
        """The source had nothing to give."""
        ...

    def close(self) -> None:
        """The source ended."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """What came from the source since the start."""

    seconds: float = 0.0
    n_events: int = 0
    n_gaps: int = 0
    lost_s: float = 0.0
    """In gaps that chunks told"""
    n_clipped: int = 0
    waiting_for: str = ""
    """Cause of the present wait, or empty"""
    busy_s: float = 0.0
    """Spent in the analysis; over `seconds` it is the real-time factor"""


class Listening:
    """A stage that ends when its source ends or is closed."""

    def __init__(self, station: Station, ledger: Ledger) -> None:
        self._station = station
        self._ledger = ledger
        self._meter = Meter()
        self._heard = Heard()
        self._source: AudioSource | None = None
        self._beat: Callable[[], None] = lambda: None
        self.heard_all = False
        """Whether the source came to its own end"""

    def attach(self, source: AudioSource) -> None:
        """Say what to listen to; apart, since a source is made with this stage's `waited`."""
        self._source = source

    def waited(self, cause: str) -> None:
        """Take note that the source has nothing to give (called by it, in this stage's thread)."""
        self._beat()
        self._ledger.waited(cause)
        self._heard = replace(self._heard, waiting_for=cause)

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Hear the source to its end, then close every open event."""
        if self._source is None:
            raise RuntimeError("no source was attached")
        self._beat = beat
        repeatable = False
        try:
            for chunk in self._source:
                beat()
                self._hear(chunk)
                repeatable = chunk.file is not None
                if stop.is_set():
                    break
            self.heard_all = not stop.is_set()
        finally:
            # Also when the source broke off: what was heard until then is kept. Only a file that
            # was stopped half-way is not cut into events there: it will be heard again, and the
            # whole event has the id that a half one would have taken.
            try:
                if not (repeatable and stop.is_set()):
                    self._count(self._station.finish())
            finally:
                self._ledger.close()

    def heard(self) -> Heard:
        """Return the counts, for health."""
        return self._heard

    def level(self) -> Level:
        """Return the level since the last call, for the meter."""
        return self._meter.take()

    def _hear(self, chunk: AudioChunk) -> None:
        began = time.monotonic()
        self._meter.add(chunk.samples)
        self._count(self._station.process(chunk))
        gap_s = chunk.gap / chunk.sample_rate
        self._heard = replace(
            self._heard,
            seconds=self._heard.seconds + chunk.samples.size / chunk.sample_rate,
            n_gaps=self._heard.n_gaps + bool(chunk.gap),
            lost_s=self._heard.lost_s + gap_s,
            n_clipped=self._heard.n_clipped + chunk.n_clipped,
            waiting_for="",
            busy_s=self._heard.busy_s + time.monotonic() - began,
        )

    def _count(self, events: Sequence[object]) -> None:
        self._heard = replace(self._heard, n_events=self._heard.n_events + len(events))
