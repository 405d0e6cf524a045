"""Clips are written whole and tagged, withheld when a voice is in them, and never in the way."""

from __future__ import annotations

import json
import logging
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import soundfile

from fieldstation.clips import writer
from fieldstation.clips.ring import Recording, Ring
from fieldstation.clips.writer import ClipTags, ClipWriter, clip_name
from fieldstation.clock import US_PER_S, parse_instant
from fieldstation.records import AudioChunk, ClipState, Event, Label

CHAFFINCH = Label("Fringilla coelebs", "Chaffinch")
RATE = 8_000
START = parse_instant("2026-05-01T22:30:00Z")
BERLIN = ClipTags("garden", "Europe/Berlin", "CC0-1.0")
States = list[tuple[UUID, ClipState, str | None]]


class FakeGate:
    """Hears a voice where the recording is loud; can be held shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def hears_voice(self, recording: Recording, beat: Callable[[], None]) -> bool:
        """Return whether the recording reaches half of full scale."""
        assert self.open.wait(10)
        beat()
        return bool(np.abs(recording.samples).max() >= 16_384)


def event(number: int = 1, start: float = 4, end: float = 6) -> Event:
    """Return an event of the stream."""
    begin, close = (START + round(s * US_PER_S) for s in (start, end))
    return Event(UUID(int=number), CHAFFINCH, begin, close, 0.91, 0.5, "0123456789abcdef")


def make_writer(
    folder: Path, states: States, gate: FakeGate | None = None, live: bool = True
) -> ClipWriter:
    """Return a writer with rolls of 1 s over a ring of 20 s."""
    return ClipWriter(
        folder,
        Ring(20),
        gate or FakeGate(),
        pre_roll_s=1,
        post_roll_s=1,
        on_state=lambda *state: states.append(state),
        tags=BERLIN,
        live=live,
    )


def hear(clips: ClipWriter, begin: float, end: float, amplitude: float = 0.1) -> None:
    """Let the writer hear noise of an amplitude, in chunks of 0.5 s."""
    rng = np.random.default_rng(0)
    for start in np.arange(begin, end, 0.5):
        samples = rng.uniform(-amplitude, amplitude, RATE // 2).astype(np.float32)
        clips.hear(AudioChunk(samples, RATE, START + round(start * US_PER_S)))


@contextmanager
def running(clips: ClipWriter) -> Iterator[list[None]]:
    """Run the stage in a thread; yield the beats that it gave."""
    stop, beats = threading.Event(), list[None]()
    thread = threading.Thread(target=clips.run, args=(stop, lambda: beats.append(None)))
    thread.start()
    try:
        yield beats
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def test_a_clip_is_written_with_its_rolls_and_tags(tmp_path: Path) -> None:
    """4 s of FLAC lie under the event's local date and say what they are."""
    states: States = []
    clips = make_writer(tmp_path, states)
    with running(clips) as beats:
        hear(clips, 0, 10)
        clips.post(event())
        assert clips.drain(10)
    name = f"2026-05-02/{UUID(int=1)}.flac"  # half past midnight in Berlin
    assert states == [(UUID(int=1), ClipState.WRITTEN, name)]
    assert clip_name(event(), "Europe/Berlin") == name
    assert beats
    with soundfile.SoundFile(tmp_path / name) as flac:
        assert (flac.samplerate, flac.channels, flac.subtype) == (RATE, 1, "PCM_16")
        assert len(flac) == 4 * RATE
        assert (flac.title, flac.artist) == ("Chaffinch (Fringilla coelebs)", "garden")
        assert flac.date == "2026-05-01T22:30:03.000000Z"
        assert (flac.license, flac.software[:12]) == ("CC0-1.0", "fieldstation")
        told = json.loads(flac.comment)
    assert told["event_id"] == str(UUID(int=1))
    assert told["probability"] == 0.91
    assert told["encoder_id"] == "0123456789abcdef"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{UUID(int=1)}.flac"]


def test_the_samples_survive_bit_for_bit(tmp_path: Path) -> None:
    """A clip of a 16-bit source holds the source's own samples."""
    source = np.random.default_rng(1).integers(-9_000, 9_000, 10 * RATE, dtype=np.int16)
    states: States = []
    clips = make_writer(tmp_path, states)
    clips.hear(AudioChunk((source / 32_768).astype(np.float32), RATE, START))
    with running(clips):
        clips.post(event())
        assert clips.drain(10)
    written, _ = soundfile.read(tmp_path / clip_name(event(), "Europe/Berlin"), dtype="int16")
    np.testing.assert_array_equal(written, source[3 * RATE : 7 * RATE])


def test_a_voice_withholds_the_clip_and_leaves_nothing(tmp_path: Path) -> None:
    """A withheld clip leaves neither file nor folder."""
    states: States = []
    clips = make_writer(tmp_path / "clips", states)
    with running(clips):
        hear(clips, 0, 10, amplitude=0.9)
        clips.post(event())
        assert clips.drain(10)
    assert states == [(UUID(int=1), ClipState.WITHHELD, None)]
    assert not (tmp_path / "clips").exists()


def test_a_clip_waits_for_its_post_roll_or_the_end(tmp_path: Path) -> None:
    """An event at the very end is cut when the source says that it ended."""
    states: States = []
    clips = make_writer(tmp_path, states)
    with running(clips):
        hear(clips, 0, 6)
        clips.post(event())
        assert clips.drain(10)
        assert states == []
        clips.finish()
        assert clips.drain(10)
    assert [state for _, state, _ in states] == [ClipState.WRITTEN]
    info = soundfile.info(tmp_path / clip_name(event(), "Europe/Berlin"))
    assert info.frames == 3 * RATE


def test_an_event_that_the_ring_has_lost_is_missing(tmp_path: Path) -> None:
    """A clip whose audio is gone is told as missing, at once."""
    states: States = []
    clips = make_writer(tmp_path, states)
    hear(clips, 0, 40)
    clips.post(event())
    assert states == [(UUID(int=1), ClipState.MISSING, None)]


def test_a_disk_that_refuses_is_reported_once_and_again_when_it_mends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the folder cannot be written clips are missing; then they are written again."""
    folder, states = tmp_path / "clips", list[tuple[UUID, ClipState, str | None]]()
    folder.write_text("a file where the folder should be")
    clips = make_writer(folder, states)
    hear(clips, 0, 10)
    with caplog.at_level(logging.WARNING), running(clips):
        for number in (1, 2):
            clips.post(event(number))
        assert clips.drain(10)
        assert clips.fault is not None
        assert str(folder) in clips.fault
        folder.unlink()
        clips.post(event(3))
        assert clips.drain(10)
    assert [state for _, state, _ in states] == [
        ClipState.MISSING,
        ClipState.MISSING,
        ClipState.WRITTEN,
    ]
    assert clips.fault is None
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING"]


def test_a_rate_that_flac_does_not_know_costs_the_clip_and_nothing_else(tmp_path: Path) -> None:
    """Recorders of bats go beyond its 655,350 Hz: the event is missing its clip, and says so."""
    states: States = []
    clips = make_writer(tmp_path, states)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 768_000).astype(np.float32)
    with running(clips):
        for second in range(3):
            clips.hear(AudioChunk(noise, 768_000, START + second * US_PER_S))
        clips.post(event(start=1, end=2))
        assert clips.drain(10)
        assert clips.fault is not None
        assert "768000 Hz" in clips.fault
    assert states == [(UUID(int=1), ClipState.MISSING, None)]
    assert list(tmp_path.rglob("*.*")) == []


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let the system refuse longer files, as a full disk does, after their first bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """Where the last bytes do not fit, the temporary file is removed and the clip missing."""
    states: States = []
    clips = make_writer(tmp_path, states)
    hear(clips, 0, 10)
    with running(clips), files_of_at_most(1_000):
        clips.post(event())
        assert clips.drain(10)
    assert states == [(UUID(int=1), ClipState.MISSING, None)]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_live_source_never_waits_for_a_slow_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the backlog is full the newest clip is missing and `post` returns."""
    monkeypatch.setattr(writer, "MAX_BACKLOG_BYTES", 9 * RATE * 2)  # two clips of 4 s
    states, gate = list[tuple[UUID, ClipState, str | None]](), FakeGate()
    gate.open.clear()
    clips = make_writer(tmp_path, states, gate)
    hear(clips, 0, 10)
    for number in (1, 2, 3):
        clips.post(event(number))
    assert states == [(UUID(int=3), ClipState.MISSING, None)]
    assert clips.n_waiting == 2
    gate.open.set()
    with running(clips):
        assert clips.drain(10)
    assert [state for _, state, _ in states[1:]] == [ClipState.WRITTEN] * 2


def test_a_file_source_waits_and_loses_no_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty clips through a backlog of one are all written."""
    monkeypatch.setattr(writer, "MAX_BACKLOG_BYTES", 1)
    states: States = []
    clips = make_writer(tmp_path, states, live=False)
    hear(clips, 0, 10)
    with running(clips):
        for number in range(30):
            clips.post(event(number))
        assert clips.drain(10)
    assert [(identity.int, state) for identity, state, _ in states] == [
        (number, ClipState.WRITTEN) for number in range(30)
    ]


def test_a_waiting_file_source_says_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no room the analysis thread's watchdog hears of it."""
    monkeypatch.setattr(writer, "MAX_BACKLOG_BYTES", 1)
    monkeypatch.setattr(writer, "POLL_S", 0.01)
    states, gate = list[tuple[UUID, ClipState, str | None]](), FakeGate()
    gate.open.clear()
    clips = ClipWriter(
        tmp_path,
        Ring(20),
        gate,
        pre_roll_s=1,
        post_roll_s=1,
        on_state=lambda *state: states.append(state),
        tags=BERLIN,
        live=False,
        on_wait=gate.open.set,
    )
    hear(clips, 0, 10)
    with running(clips):
        for number in range(3):
            clips.post(event(number))
        assert clips.drain(10)
    assert len(states) == 3


def test_what_is_cut_when_the_station_stops_is_still_written(tmp_path: Path) -> None:
    """A stage told to stop before it began writes what waits for it, and takes no more."""
    states: States = []
    clips = make_writer(tmp_path, states)
    hear(clips, 0, 10)
    clips.post(event(1))
    stop = threading.Event()
    stop.set()
    clips.run(stop, lambda: None)
    assert [state for _, state, _ in states] == [ClipState.WRITTEN]
    clips.post(event(2))
    assert states[1:] == [(UUID(int=2), ClipState.MISSING, None)]


def test_what_cannot_be_written_before_the_stop_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the grace time the rest is told as missing instead of left waiting."""
    monkeypatch.setattr(writer, "GRACE_S", -1.0)
    states: States = []
    clips = make_writer(tmp_path, states)
    hear(clips, 0, 10)
    clips.post(event(1))
    stop = threading.Event()
    stop.set()
    clips.run(stop, lambda: None)
    assert states == [(UUID(int=1), ClipState.MISSING, None)]
    assert clips.drain(0)
