"""The microphone's true loop, with a sound system and a clock that do as they are told."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fieldstation.audio.devices import DeviceError, DeviceNotFound
from fieldstation.audio.microphone import Microphone, Patience
from fieldstation.records import AudioChunk, Samples
from tests.audio.fakes import FakeSound, Session, a_device, noise
from tests.fakes import FakeClock

BLOCK = 2_400
PATIENCE = Patience(poll_s=0.001, quiet_s=0.0)
"""Looks often, since only the fake clock's seconds count"""


def stereo(n: int = BLOCK, seed: int = 0) -> Samples:
    return np.stack([noise(n, seed), noise(n, seed + 1)], axis=1)


def blocks(n: int) -> list[tuple[Samples, bool]]:
    return [(stereo(seed=i), False) for i in range(n)]


class Room:
    """A microphone in front of a fake sound system, closed when that has played everything."""

    def __init__(self, *sessions: Session, **options: object) -> None:
        self.clock = FakeClock()
        self.waits: list[str] = []
        self.problems: list[str | None] = []
        self.sound = FakeSound(self.clock, sessions)
        self.microphone = Microphone(
            clock=self.clock,
            on_wait=self._wait,
            sound=self.sound,
            patience=PATIENCE,
            **options,  # type: ignore[arg-type]
        )
        self.sound.on_exhausted = self.microphone.close

    def _wait(self, cause: str) -> None:
        self.waits.append(cause)
        self.problems.append(self.microphone.state().problem)
        self.clock.advance(0.25)

    def listen(self) -> list[AudioChunk]:
        return list(self.microphone)


def test_blocks_become_chunks_in_order() -> None:
    """Mixed down, at the stream's rate, each stamped where the one before ended."""
    room = Room(Session(blocks(20)))
    began = room.clock.wall()
    chunks = room.listen()
    assert [c.captured_at - began for c in chunks] == [i * 50_000 for i in range(20)]
    assert {(c.sample_rate, c.gap, c.cause, c.file) for c in chunks} == {(48_000, 0, "", None)}
    np.testing.assert_allclose(chunks[3].samples, stereo(seed=3).mean(axis=1), atol=1e-7)
    assert room.sound.streams[0].closed


def test_one_channel_can_be_chosen() -> None:
    """Channel 1 is the second."""
    chunks = Room(Session(blocks(1)), channel=1).listen()
    np.testing.assert_array_equal(chunks[0].samples, stereo()[:, 1])


def test_a_device_that_comes_back_tells_what_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    """Its absence is waited out, logged once each way, and measured in the first chunk's gap."""
    busy = Session(fault="it is busy")
    room = Room(Session(blocks(4)), busy, busy, Session(blocks(2)))
    with caplog.at_level(logging.INFO):
        chunks = room.listen()
    assert [c.gap > 0 for c in chunks] == [False] * 4 + [True, False]
    back, before = chunks[4], chunks[3]
    assert back.cause == "microphone"
    missed_us = back.captured_at - before.captured_at - 50_000
    assert back.gap == pytest.approx(missed_us * 48_000 / 1e6, abs=1)
    assert missed_us >= 3 * 500_000  # three waits, none shorter than half a second
    assert room.waits.count("microphone") >= 6
    texts = [r.message for r in caplog.records if r.name.endswith("microphone")]
    assert sum("busy" in t for t in texts) == 1
    assert sum("heard again" in t for t in texts) == 1
    assert room.sound.n_refreshed >= 3


def test_a_device_that_falls_silent_is_opened_again() -> None:
    """A stream that says it runs but sends nothing for 2 s is as good as gone."""
    room = Room(Session(blocks(1), hangs=True), Session(blocks(1)))
    chunks = room.listen()
    assert chunks[1].gap >= 2 * 48_000
    assert all(stream.closed for stream in room.sound.streams)


def test_a_device_may_come_back_at_another_rate() -> None:
    """Its chunks carry the new rate, and the gap counts in it."""
    room = Room(Session(blocks(2)), Session(blocks(2), sample_rate=16_000))
    chunks = room.listen()
    assert [c.sample_rate for c in chunks] == [48_000] * 2 + [16_000] * 2
    missed_us = chunks[2].captured_at - chunks[1].captured_at - 50_000
    assert chunks[2].gap == pytest.approx(missed_us * 16_000 / 1e6, abs=1)


def test_a_device_that_was_waited_for_counts_the_wait() -> None:
    """Time before the first sound is a gap if the device was missing, and none otherwise."""
    chunks = Room(Session(fault="busy"), Session(blocks(1))).listen()
    assert chunks[0].gap >= 0.5 * 48_000
    assert chunks[0].cause == "microphone"


def test_an_overflow_marks_a_gap() -> None:
    """PortAudio says that samples were lost, not how many: at least one."""
    room = Room(Session([(stereo(), False), (stereo(), True), (stereo(), False)]))
    assert [(c.gap, c.cause) for c in room.listen()] == [(0, ""), (1, "overflow"), (0, "")]
    assert room.microphone.state().n_overflows == 1


def test_an_analysis_that_is_behind_loses_the_oldest() -> None:
    """What a full queue dropped is the next chunk's gap, and nothing of it is waited for."""
    room = Room(Session(blocks(30)), queue_s=1.0)
    chunks = room.listen()
    assert [(c.gap, c.cause) for c in chunks] == [(10 * BLOCK, "behind")] + [(0, "")] * 19
    np.testing.assert_allclose(chunks[-1].samples, stereo(seed=29).mean(axis=1), atol=1e-7)


def test_clipping_is_counted() -> None:
    """Samples at full scale are on the chunk and in the state."""
    loud = stereo()
    loud[:7, 0] = 1.0
    room = Room(Session([(loud, False)]))
    assert [c.n_clipped for c in room.listen()] == [7]
    assert room.microphone.state().n_clipped == 7


def test_a_minute_of_zeros_is_a_dead_microphone(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported once and no silence; the first sound again carries what was missed."""
    zeros = [(np.zeros((48_000, 2), np.float32), False)] * 100
    room = Room(Session([*zeros, (stereo(), False)]), queue_s=200.0)
    chunks = room.listen()
    assert len(chunks) == 60  # 59 s of zeros are believed, then the sound
    assert (chunks[-1].gap, chunks[-1].cause) == (41 * 48_000, "dead")
    assert room.waits.count("dead") == 41
    assert chunks[-1].captured_at - chunks[0].captured_at == 100_000_000
    texts = [r.message for r in caplog.records]
    assert sum("nothing but zeros for 60 s" in t for t in texts) == 1
    assert len([p for p in room.problems if p and "muted" in p]) == 41


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_sound_are_left_out(value: float) -> None:
    """A block with a NaN, or beyond all scales, is not passed on; it is the next chunk's gap."""
    bad = stereo()
    bad[5, 1] = value
    room = Room(Session([(stereo(), False), (bad, False), (stereo(), False)]))
    chunks = room.listen()
    assert [(c.gap, c.cause) for c in chunks] == [(0, ""), (BLOCK, "microphone")]
    assert chunks[1].captured_at - chunks[0].captured_at == 100_000


def test_a_clock_that_is_set_ends_the_window() -> None:
    """No window and no event may have an end before its start: the step is a gap of a sample."""
    room = Room(Session(blocks(4)))
    chunks = []
    for i, chunk in enumerate(room.microphone):
        chunks.append(chunk)
        if i == 1:
            room.clock.step(-3_600)
    assert [(c.gap, c.cause) for c in chunks] == [(0, ""), (0, ""), (1, "clock"), (0, "")]
    assert chunks[2].captured_at - chunks[1].captured_at == 50_000 - 3_600_000_000


def test_without_waiting_a_missing_device_is_an_error_at_once() -> None:
    """At a terminal the list comes back instead of a station that waits."""
    sound = FakeSound(FakeClock(), [Session()])
    with pytest.raises(DeviceNotFound, match=r"'Yeti'.*there are 0 'USB Audio"):
        Microphone("Yeti", sound=sound, wait=False)
    with pytest.raises(DeviceError, match=r"audio.channel is 3; .* has 2"):
        Microphone(channel=2, sound=sound, wait=False)
    Microphone("Yeti", sound=sound)  # waits


def test_closing_ends_the_iteration() -> None:
    """Between two chunks, and the device is closed with it."""
    room = Room(Session(blocks(20)))
    chunks = []
    for chunk in room.microphone:
        chunks.append(chunk)
        room.microphone.close()
    assert len(chunks) == 1
    assert room.sound.streams[0].closed
    assert room.listen() == []


def test_leaving_the_loop_closes_the_device() -> None:
    """A reader that stops in the middle leaves no stream open."""
    room = Room(Session(blocks(20)))
    for _ in room.microphone:
        break
    assert room.sound.streams[0].closed


def test_the_description_tells_what_is_heard() -> None:
    """Before, during and by name."""
    room = Room(Session(blocks(1)))
    assert room.microphone.description == "the default microphone (waiting for it)"
    room.listen()
    assert room.microphone.description == f"{a_device().name}, 48000 Hz"
