"""The analysis stage: pulls a source through the station, and keeps the ledger meanwhile."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fieldstation.audio.level import Clipping, Level, Meter
from fieldstation.audio.source import AudioSource
from fieldstation.records import AudioChunk
from fieldstation.station import Station

NO_ROOM = "disk"
"""Cause of what is lost while events could not be kept"""
TURN_S = 0.5


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


BEHIND = "behind"
TOLD_S = 60.0
"""After sound was dropped or could not be analysed, health goes on to say so"""


class Listening:
    """A stage that ends when its source ends or is closed."""

    def __init__(
        self,
        station: Station,
        ledger: Ledger,
        has_room: Callable[[], bool] = lambda: True,
        live: bool = True,
    ) -> None:
        """Bind the parts.

        Args:
            has_room: whether what is heard now could be kept. If not, live sound passes unheard,
                and the ledger says so; a recording or a pipe waits.
            live: whether the source goes on whether it is heard or not.
        """
        self._station = station
        self._ledger = ledger
        self._has_room = has_room
        self._live = live
        self._passed_s = 0.0
        self._meter = Meter()
        self._clipping = Clipping()
        self._behind_at = self._overflowed_at = -math.inf
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
                self._take(chunk, stop)
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

    @property
    def problem(self) -> str:
        """Return what is wrong with the sound or its analysis; empty while all is well."""
        now = time.monotonic()
        if now - self._behind_at < TOLD_S:
            return "the analysis is slower than the sound, of which some was dropped: see its load"
        if now - self._overflowed_at < TOLD_S:
            return "the encoder makes no numbers of the sound: try another bundle, or less gain"
        return self._clipping.problem

    def level(self) -> Level:
        """Return the level since the last call, for the meter."""
        return self._meter.take()

    def _take(self, chunk: AudioChunk, stop: threading.Event) -> None:
        """Hear a chunk, unless it could not be kept."""
        while not self._has_room():
            self.waited(NO_ROOM)
            if self._live:
                self._passed_s += (chunk.gap + chunk.samples.size) / chunk.sample_rate
                return
            if stop.wait(TURN_S):
                break
        if self._passed_s:
            gap = chunk.gap + round(self._passed_s * chunk.sample_rate)
            chunk = replace(chunk, gap=gap, cause=NO_ROOM)
            self._passed_s = 0.0
        self._hear(chunk)

    def _hear(self, chunk: AudioChunk) -> None:
        began = time.monotonic()
        self._meter.add(chunk.samples)
        self._clipping.add(chunk.samples.size, chunk.n_clipped, chunk.sample_rate)
        if chunk.cause == BEHIND:
            self._behind_at = began
        n_overflows = self._station.n_overflows
        self._count(self._station.process(chunk))
        if self._station.n_overflows > n_overflows:
            self._overflowed_at = began
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
