"""16-bit PCM through a real pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from fieldstation.audio.files import FileError, StandardInput
from fieldstation.records import AudioChunk
from tests.fakes import FakeClock

PCM = np.arange(-5_000, 5_000, dtype="<i2")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # closed by the test
            os.close(end)


def feed(end: int, content: bytes, at_once: int = 1_000) -> threading.Thread:
    """Write in pieces from another thread, then close."""

    def write() -> None:
        for start in range(0, len(content), at_once):
            os.write(end, content[start : start + at_once])
        os.close(end)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def listen(source: StandardInput, writer: threading.Thread) -> list[AudioChunk]:
    chunks = list(source)
    writer.join()
    return chunks


@pytest.mark.parametrize("at_once", [7, 999, 20_000])
def test_all_of_a_pipe_is_heard(pipe: tuple[int, int], at_once: int) -> None:
    """However the writer cuts it, even in the middle of a sample."""
    clock = FakeClock()
    source = StandardInput(10_000, clock=clock, descriptor=pipe[0])
    chunks = listen(source, feed(pipe[1], PCM.tobytes(), at_once))
    np.testing.assert_array_equal(
        np.concatenate([c.samples for c in chunks]), PCM.astype(np.float32) / 32_768
    )
    starts = [c.captured_at - clock.wall() for c in chunks]
    assert starts == [i * 100_000 - 100_000 for i in range(10)]
    assert {(c.sample_rate, c.gap) for c in chunks} == {(10_000, 0)}


def test_channels_are_interleaved(pipe: tuple[int, int]) -> None:
    """The second of two is every other sample."""
    source = StandardInput(1_000, n_channels=2, channel=1, descriptor=pipe[0])
    chunks = listen(source, feed(pipe[1], PCM.tobytes()))
    np.testing.assert_array_equal(
        np.concatenate([c.samples for c in chunks]), PCM[1::2].astype(np.float32) / 32_768
    )


def test_half_a_sample_at_the_end_is_left(pipe: tuple[int, int]) -> None:
    """A writer that is killed stops anywhere."""
    source = StandardInput(1_000, descriptor=pipe[0])
    chunks = listen(source, feed(pipe[1], PCM.tobytes()[:333]))
    assert [c.samples.size for c in chunks] == [100, 66]


def test_an_empty_pipe_gives_nothing(pipe: tuple[int, int]) -> None:
    """Its end is the end."""
    assert listen(StandardInput(48_000, descriptor=pipe[0]), feed(pipe[1], b"")) == []


def test_a_silent_pipe_can_be_closed(pipe: tuple[int, int]) -> None:
    """Whoever waits is told so, and the wait ends when asked."""
    waits: list[str] = []

    def on_wait(cause: str) -> None:
        waits.append(cause)
        source.close()

    source = StandardInput(48_000, descriptor=pipe[0], on_wait=on_wait)
    assert list(source) == []
    assert waits == ["microphone"]


def test_what_makes_no_sense_is_refused(pipe: tuple[int, int]) -> None:
    """A terminal, no rate, a channel that is not there."""
    ours, theirs = pty.openpty()
    with pytest.raises(FileError, match="is a terminal"):
        StandardInput(48_000, descriptor=theirs)
    os.close(ours)
    os.close(theirs)
    with pytest.raises(FileError, match="--rate is 0"):
        StandardInput(0, descriptor=pipe[0])
    with pytest.raises(FileError, match="2 channels, of which number 3"):
        StandardInput(48_000, n_channels=2, channel=2, descriptor=pipe[0])
