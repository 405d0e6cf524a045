"""The analysis stage: what it keeps when its source ends, is stopped, or breaks off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fieldstation.listening import Listening
from fieldstation.records import AudioChunk, FileOrigin


class Source:
    """Gives chunks; then ends, breaks off, or is stopped in between."""

    description, live, problem = "test", True, ""

    def __init__(
        self, file: FileOrigin | None = None, fault: Exception | None = None, cause: str = ""
    ) -> None:
        self.file, self.fault, self.cause = file, fault, cause
        self.stop: threading.Event | None = None

    def __iter__(self) -> Iterator[AudioChunk]:
        for number in range(3):
            if number == 2 and self.fault:
                raise self.fault
            if number == 2 and self.stop:
                self.stop.set()
            yield AudioChunk(
                np.full(100, 0.5, np.float32), 1_000, 0, 10, self.cause, file=self.file
            )

    def close(self) -> None:
        """Nothing is open."""


class Station:
    """Counts what reaches it; one event a chunk."""

    def __init__(self) -> None:
        self.n_chunks = self.n_finished = self.n_overflows = 0
        self.gaps: list[tuple[int, str]] = []

    def process(self, chunk: AudioChunk) -> list[str]:
        self.n_chunks += 1
        self.gaps.append((chunk.gap, chunk.cause))
        return ["event"]

    def finish(self) -> list[str]:
        self.n_finished += 1
        return ["last"]


class Ledger:
    """Counts its ends, and keeps the causes of waits."""

    def __init__(self) -> None:
        self.n_closed = 0
        self.causes: list[str] = []

    def waited(self, cause: str) -> None:
        self.causes.append(cause)

    def close(self) -> None:
        self.n_closed += 1


def listen(source: Source, stop: threading.Event) -> tuple[Listening, Any, Ledger]:
    station: Any = Station()
    ledger = Ledger()
    listening = Listening(station, ledger)
    listening.attach(source)
    listening.run(stop, lambda: None)
    return listening, station, ledger


def test_a_source_that_ends_is_finished_and_counted() -> None:
    """Every count is there for health."""
    listening, station, ledger = listen(Source(), threading.Event())
    heard = listening.heard()
    assert (heard.seconds, heard.n_events, heard.n_gaps) == (pytest.approx(0.3), 4, 3)
    assert heard.lost_s == pytest.approx(0.03)
    assert (station.n_finished, ledger.n_closed, listening.heard_all) == (1, 1, True)


def test_sound_that_an_analysis_had_to_drop_is_told() -> None:
    """A gap of another cause is the microphone's."""
    for cause, told in (("behind", "slower than the sound"), ("overflow", "")):
        listening, _, _ = listen(Source(cause=cause), threading.Event())
        assert told in listening.problem
        assert bool(listening.problem) == bool(told)


def test_windows_that_could_not_be_analysed_are_told() -> None:
    """They count as heard, and nobody heard a bird in them."""

    class Overflowing(Station):
        def process(self, chunk: AudioChunk) -> list[str]:
            self.n_overflows += 1
            return super().process(chunk)

    for station, told in ((Overflowing(), "makes no numbers"), (Station(), "")):
        listening = Listening(station, Ledger())  # type: ignore[arg-type]
        listening.attach(Source())
        listening.run(threading.Event(), lambda: None)
        assert told in listening.problem
        assert bool(listening.problem) == bool(told)


def test_a_microphone_that_is_stopped_keeps_its_open_event() -> None:
    """Live sound does not come again."""
    source, stop = Source(), threading.Event()
    source.stop = stop
    listening, station, _ = listen(source, stop)
    assert (station.n_finished, listening.heard_all) == (1, False)


def test_a_file_that_is_stopped_leaves_its_open_event_to_the_next_run() -> None:
    """A half event would take the id of the whole one."""
    source, stop = Source(file=FileOrigin("a.wav", "ab", 0)), threading.Event()
    source.stop = stop
    listening, station, ledger = listen(source, stop)
    assert (station.n_finished, listening.heard_all, ledger.n_closed) == (0, False, 1)


def test_a_source_that_breaks_off_keeps_what_was_heard() -> None:
    """The fault gets out, after the open event was closed."""
    station: Any = Station()
    ledger = Ledger()
    listening = Listening(station, ledger)
    listening.attach(Source(fault=OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        listening.run(threading.Event(), lambda: None)
    assert (station.n_finished, ledger.n_closed) == (1, 1)


def test_a_fault_in_the_last_window_does_not_cost_the_ledger() -> None:
    """What was heard is told even if the analysis breaks at the very end."""

    class Broken(Station):
        def finish(self) -> list[str]:
            raise ValueError("overflow")

    station: Any = Broken()
    ledger = Ledger()
    listening = Listening(station, ledger)
    listening.attach(Source())
    with pytest.raises(ValueError, match="overflow"):
        listening.run(threading.Event(), lambda: None)
    assert ledger.n_closed == 1


def test_live_sound_that_could_not_be_kept_passes_and_is_counted() -> None:
    """The chunk after it carries the gap; the ledger has the time, so that nothing is silent."""
    station: Any = Station()
    ledger = Ledger()
    room = iter([True, False, True, True])
    listening = Listening(station, ledger, has_room=lambda: next(room))
    listening.attach(Source())
    listening.run(threading.Event(), lambda: None)
    assert station.gaps == [(10, ""), (10 + 110, "disk")]
    assert ledger.causes == ["disk"]
    assert listening.heard().lost_s == pytest.approx(0.13)


def test_a_recording_waits_for_room() -> None:
    """It does not run away; whoever stops the station need not wait."""
    station: Any = Station()
    ledger = Ledger()
    room = iter([True, False, True, True])
    listening = Listening(station, ledger, has_room=lambda: next(room), live=False)
    listening.attach(Source())
    listening.run(threading.Event(), lambda: None)
    assert station.gaps == [(10, "")] * 3
    assert ledger.causes == ["disk"]
    assert listening.heard_all
