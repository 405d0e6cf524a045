"""The ring gives back the samples that were pushed, and keeps no more than it was told to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.clips.ring import FULL_SCALE, Recording, Ring, Stretch
from fieldstation.clock import US_PER_S
from fieldstation.records import AudioChunk, FileOrigin

RATE = 1_000
START = 1_700_000_000 * US_PER_S


def at(seconds: float) -> int:
    """Return the instant so many seconds after the stream began."""
    return START + round(seconds * US_PER_S)


def ramp(begin: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return samples that tell their own index: sample i is i as int16."""
    return (np.arange(begin, end) / FULL_SCALE).astype(np.float32)


def push_seconds(
    ring: Ring, begin: float, end: float, gap: int = 0, file: FileOrigin | None = None
) -> None:
    """Push a stretch of the ramp in chunks of 100 ms; `gap` lies before the first."""
    first, last = round(begin * RATE), round(end * RATE)
    for i in range(first, last, 100):
        origin = FileOrigin(file.path, file.content_hash, i) if file else None
        samples = ramp(i, min(i + 100, last))
        lost = gap if i == first else 0
        ring.push(AudioChunk(samples, RATE, at(i / RATE), gap=lost, file=origin))


def asked(ring: Ring, stretch: Stretch) -> list[Recording | None]:
    """Request a stretch; return the list that its recording will be put into."""
    delivered: list[Recording | None] = []
    ring.request(stretch, delivered.append)
    return delivered


def span(delivered: Sequence[Recording | None]) -> tuple[float, float]:
    """Return in seconds what the one recording holds, after checking it against its instant."""
    (recording,) = delivered
    assert recording is not None
    first, last = int(recording.samples[0]), int(recording.samples[-1])
    np.testing.assert_array_equal(recording.samples, np.arange(first, last + 1))
    assert recording.started_at == at(first / RATE)
    return first / RATE, (last + 1) / RATE


def test_a_stretch_in_the_past_is_cut_at_once_with_its_rolls() -> None:
    """What is already there needs no further push."""
    ring = Ring(20)
    push_seconds(ring, 0, 10)
    assert span(asked(ring, Stretch(at(4.25), at(5.5), 1, 2))) == (3.25, 7.5)


def test_a_stretch_waits_for_its_post_roll() -> None:
    """The recording comes with the push that completes it, and not before."""
    ring = Ring(20)
    push_seconds(ring, 0, 6)
    delivered = asked(ring, Stretch(at(4), at(5), 1, 2))
    push_seconds(ring, 6, 6.9)
    assert delivered == []
    push_seconds(ring, 6.9, 7)
    assert span(delivered) == (3, 7)


def test_the_pre_roll_begins_with_the_stream() -> None:
    """An event in the first second has only the audio there was."""
    ring = Ring(20)
    push_seconds(ring, 0, 5)
    assert span(asked(ring, Stretch(at(0.5), at(2), 3, 1))) == (0, 3)


def test_a_recording_never_holds_a_gap() -> None:
    """Pre-roll ends at the gap before the event."""
    ring = Ring(20)
    push_seconds(ring, 0, 4)
    push_seconds(ring, 5, 10, gap=RATE)
    assert span(asked(ring, Stretch(at(6), at(7), 3, 1))) == (5, 8)


def test_a_gap_delivers_what_waits() -> None:
    """Where the source breaks off within the post-roll, the recording ends there."""
    ring = Ring(20)
    push_seconds(ring, 0, 5)
    delivered = asked(ring, Stretch(at(3), at(4), 1, 3))
    push_seconds(ring, 9, 9.1, gap=4 * RATE)
    assert span(delivered) == (2, 5)


def test_an_event_before_the_gap_is_still_found_after_it() -> None:
    """An event that the gap itself closed is cut from the audio before the gap."""
    ring = Ring(20)
    push_seconds(ring, 0, 5)
    push_seconds(ring, 9, 9.5, gap=4 * RATE)
    assert span(asked(ring, Stretch(at(3), at(4), 1, 3))) == (2, 5)


def test_the_end_delivers_what_waits() -> None:
    """Nothing waits for ever: the end of the source cuts with what there is."""
    ring = Ring(20)
    push_seconds(ring, 0, 5)
    delivered = asked(ring, Stretch(at(3), at(5), 1, 3))
    assert delivered == []
    ring.finish()
    assert span(delivered) == (2, 5)


def test_what_is_no_longer_or_not_yet_held_is_none() -> None:
    """An event older than the ring, or of another file, gives no recording."""
    ring = Ring(5)
    assert asked(ring, Stretch(at(0), at(1), 0, 0)) == [None]
    push_seconds(ring, 0, 20)
    assert asked(ring, Stretch(at(2), at(3), 1, 1)) == [None]
    assert asked(ring, Stretch(at(30), at(31), 1, 1)) == [None]
    elsewhere = FileOrigin("a.wav", "aa", 0)
    assert asked(ring, Stretch(at(18), at(19), 1, 0, elsewhere)) == [None]


def test_two_files_of_the_same_hour_are_told_apart() -> None:
    """Instants that two files claim are looked up in the event's own file."""
    one, other = FileOrigin("a.wav", "aa", 0), FileOrigin("b.wav", "bb", 0)
    ring = Ring(20)
    push_seconds(ring, 0, 3, file=one)
    push_seconds(ring, 2, 6, file=other)
    assert span(asked(ring, Stretch(at(2), at(3), 1, 1, one))) == (1, 3)
    assert span(asked(ring, Stretch(at(3), at(4), 2, 1, other))) == (2, 5)


def test_a_file_of_another_rate_does_not_disturb_the_one_before() -> None:
    """An event is cut at the rate it was recorded at."""
    one = FileOrigin("a.wav", "aa", 0)
    ring = Ring(20)
    push_seconds(ring, 0, 3, file=one)
    silence = np.zeros(8_000, np.float32)
    ring.push(AudioChunk(silence, 8_000, at(3), file=FileOrigin("b.wav", "bb", 0)))
    assert span(asked(ring, Stretch(at(1), at(3), 1, 1, one))) == (0, 3)


def test_a_clock_that_was_set_back_costs_no_event() -> None:
    """An event that began before the wall clock was set back by a minute is cut whole."""
    ring = Ring(20)
    push_seconds(ring, 0, 3)
    for i in range(3_000, 6_000, 100):
        ring.push(AudioChunk(ramp(i, i + 100), RATE, at(i / RATE - 60)))
    delivered = asked(ring, Stretch(at(2), at(4 - 60), 1, 1))
    (recording,) = delivered
    assert recording is not None
    np.testing.assert_array_equal(recording.samples, np.arange(1_000, 5_000))


def test_full_scale_does_not_wrap() -> None:
    """+1.0 and beyond stay at the top, -1.0 at the bottom."""
    ring = Ring(1)
    ring.push(AudioChunk(np.array([1, 1.5, -1, -2], np.float32), 4, at(0)))
    (recording,) = asked(ring, Stretch(at(0), at(1), 0, 0))
    assert recording is not None
    assert recording.samples.tolist() == [32_767, 32_767, -32_768, -32_768]


@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=30),
    st.floats(0, 10),
    st.floats(0.01, 5),
    st.floats(0, 3),
    st.floats(0, 3),
    st.integers(0, 29),
)
def test_how_the_audio_was_cut_up_does_not_matter(
    sizes: list[int], start: float, length: float, pre: float, post: float, when: int
) -> None:
    """For any chunks, and asked at any time after the event began, the samples are the same."""
    ring, position = Ring(100), 0
    delivered: list[Recording | None] | None = None
    stretch = Stretch(at(start), at(start + length), pre, post)
    total = sum(sizes)
    for i, size in enumerate(sizes):
        ring.push(AudioChunk(ramp(position, position + size), RATE, at(position / RATE)))
        position += size
        if delivered is None and position / RATE > start + length and i >= when:
            delivered = asked(ring, stretch)
    if delivered is None:
        return
    ring.finish()
    first, last = span(delivered)
    assert first == pytest.approx(max(0, start - pre), abs=2 / RATE)
    assert last == pytest.approx(min(total / RATE, start + length + post), abs=2 / RATE)


@given(st.lists(st.integers(1, 3_000), max_size=40), st.floats(0.5, 5))
def test_the_ring_keeps_what_it_must_and_no_more(sizes: list[int], seconds: float) -> None:
    """It holds at least its seconds, once pushed, and at most one chunk more."""
    ring, position = Ring(seconds), 0
    for size in sizes:
        ring.push(AudioChunk(ramp(position, position + size), RATE, at(position / RATE)))
        position += size
        assert ring.held_s >= min(seconds, position / RATE) - 1e-6
        assert ring.held_s <= seconds + max(sizes) / RATE + 1e-6


def test_a_fast_file_loses_nothing_to_a_slow_taker() -> None:
    """An hour read at once gives every clip, though the ring holds ten seconds."""
    ring = Ring(10)
    taken: list[Recording | None] = []
    for second in range(30):
        push_seconds(ring, second, second + 1)
        if second >= 2:
            ring.request(Stretch(at(second - 1), at(second), 1, 2), taken.append)
    ring.finish()
    assert [span([each])[1] for each in taken] == [min(second + 2, 30) for second in range(2, 30)]
