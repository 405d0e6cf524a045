"""Chunks become windows: aligned, complete, and the same however the sound came in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstation.audio.windows import Windower
from fieldstation.records import AudioChunk, Samples, Window
from tests.audio.fakes import STARTED_AT, chunks, noise

RATE = 22_050
WINDOW = 6_615  # 0.3 s: as good as 3 s, and ten times as fast
HOP = 3_300


def cut(given_chunks: list[AudioChunk], hop: int = HOP) -> list[Window]:
    windower = Windower(RATE, WINDOW, hop)
    pushed = [window for chunk in given_chunks for window in windower.push(chunk)]
    return pushed + windower.finish()


def described(windows: list[Window]) -> list[tuple[object, ...]]:
    return [
        (w.samples.tobytes(), w.started_at, w.offset, w.n_new, w.n_padding, w.after_gap, w.file)
        for w in windows
    ]


def heard(windows: list[Window]) -> Samples:
    """Return the sound that windows hold, each sample once."""
    return np.concatenate(
        [w.samples[: WINDOW - w.n_padding][WINDOW - w.n_padding - w.n_new :] for w in windows]
    )


def test_sound_at_the_bundles_rate_passes_through_untouched() -> None:
    """22,050 Hz in is bit for bit 22,050 Hz out."""
    sound = noise(WINDOW + 3 * HOP)
    np.testing.assert_array_equal(heard(cut(chunks(sound, RATE, [1_000] * 50))), sound)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000, 96_000, 250_000])
def test_streamed_resampling_equals_resampling_at_once(rate: int) -> None:
    """What the windows hold is soxr's own answer for the whole recording."""
    sound = noise(rate)
    expected = soxr.resample(sound, rate, RATE, quality="HQ")
    got = heard(cut(chunks(sound, rate, [rate // 20] * 30)))
    assert got.size == pytest.approx(expected.size, abs=1)
    np.testing.assert_allclose(got, expected[: got.size], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("at_s", [0.1, 0.5, 1.25])
def test_an_impulse_comes_out_at_its_instant(rate: int, at_s: float) -> None:
    """soxr's delay is not in the instants: an impulse stands where it was, within a sample."""
    sound = np.zeros(2 * rate, np.float32)
    sound[round(at_s * rate)] = 1
    true_at = STARTED_AT + round(at_s * rate) * 1_000_000 / rate
    found = [
        w.started_at + int(np.abs(w.samples).argmax()) * 1_000_000 / RATE
        for w in cut(chunks(sound, rate, [480] * 1_000), hop=WINDOW)
        if np.abs(w.samples).max() > 0.1
    ]
    assert len(found) == 1
    assert found[0] == pytest.approx(true_at, abs=1_000_000 / RATE)


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 20_000), max_size=40),
    rate=st.sampled_from([8_000, 22_050, 44_100, 48_000]),
    n=st.integers(1, 60_000),
    path=st.sampled_from([None, "a.wav"]),
)
def test_how_the_sound_is_cut_changes_nothing(
    sizes: list[int], rate: int, n: int, path: str | None
) -> None:
    """Any chunking of the same stream gives the same windows, to the bit and the microsecond."""
    sound = noise(n)
    whole = cut(chunks(sound, rate, [], path))
    assert described(cut(chunks(sound, rate, sizes, path))) == described(whole)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40_000), hop=st.integers(500, WINDOW))
def test_every_sample_is_new_once(n: int, hop: int) -> None:
    """Windows cover the stretch without hole or overlap of what is new, up to a short tail."""
    sound = noise(n)
    windows = cut(chunks(sound, RATE, [4_410] * 10), hop)
    n_new = sum(w.n_new for w in windows)
    assert n - 0.1 * RATE < n_new <= n
    if windows:
        np.testing.assert_array_equal(heard(windows), sound[:n_new])
    last = max(0, n_new - WINDOW)
    assert [w.offset for w in windows] == [min(i * hop, last) for i in range(len(windows))]


def test_instants_and_places_in_the_file_follow_from_the_sample_count() -> None:
    """A window's start is its sample's time, and `first_sample` counts at the file's rate."""
    windows = cut(chunks(noise(48_000 * 2), 48_000, [4_800] * 40, "a.wav"))
    for i, window in enumerate(windows):
        offset = min(i * HOP, 2 * RATE - WINDOW)
        assert window.offset == offset
        assert abs(window.started_at - STARTED_AT - offset * 1e6 / RATE) <= 1
        assert window.file is not None
        assert window.file.first_sample == offset * 48_000 // RATE


@pytest.mark.parametrize("sizes", [[], [1_000] * 50])
def test_the_last_window_ends_with_the_sound(sizes: list[int]) -> None:
    """What is left at the end is heard with what came before it, not with zeros behind it."""
    sound = noise(WINDOW + 40 * HOP + 2_500)
    *_, last = cut(chunks(sound, RATE, sizes * 4))
    assert (last.n_new, last.offset, last.n_padding) == (2_500, sound.size - WINDOW, 0)
    np.testing.assert_array_equal(last.samples, sound[-WINDOW:])
    assert abs(last.started_at - STARTED_AT - last.offset * 1e6 / RATE) <= 1


def test_sound_shorter_than_a_window_is_padded() -> None:
    """It is heard once, from its beginning, with zeros behind it."""
    sound = noise(2_500)
    (only,) = cut(chunks(sound, RATE, []))
    assert (only.n_new, only.offset, only.n_padding) == (2_500, 0, WINDOW - 2_500)
    np.testing.assert_array_equal(only.samples[:2_500], sound)
    assert not only.samples[2_500:].any()


def test_a_tail_under_a_tenth_of_a_second_is_left() -> None:
    """Almost nothing new is not worth a window of padding."""
    assert len(cut(chunks(noise(WINDOW + 2_204), RATE, []))) == 1
    assert len(cut(chunks(noise(WINDOW + 2_205), RATE, []))) == 2
    assert cut(chunks(noise(2_204), RATE, [])) == []


def test_a_gap_resets_everything() -> None:
    """No window holds sound from both sides of a gap, and the first behind it says so."""
    before, after = noise(10_000, 1), noise(10_000, 2)
    first = chunks(before, RATE, [])[0]
    second = replace(first, samples=after, captured_at=STARTED_AT + 60_000_000, gap=1, cause="x")
    windows = cut([first, second])
    alone = cut([first])
    assert described(windows[: len(alone)]) == described(alone)
    behind = windows[len(alone) :]
    assert [w.after_gap for w in windows] == [w is behind[0] for w in windows]
    assert (behind[0].started_at, behind[0].offset) == (STARTED_AT + 60_000_000, 0)
    np.testing.assert_array_equal(behind[0].samples, after[:WINDOW])


@pytest.mark.parametrize("path", ["b.wav", "a.wav"])
def test_another_file_resets_everything(path: str) -> None:
    """A recording, or the same one from its start again, shares no window with the one before."""
    one = chunks(noise(10_000, 1), RATE, [], "a.wav")
    other = chunks(noise(10_000, 2), RATE, [], path)
    windows = cut(one + other)
    assert described(windows[: len(windows) // 2]) == described(cut(one))
    assert windows[len(windows) // 2].offset == 0
    assert windows[len(windows) // 2].after_gap


def test_another_rate_resets_the_resampler() -> None:
    """A device that comes back at another rate is resampled from that one."""
    low, high = chunks(noise(9_000), 8_000, []), chunks(noise(48_000), 48_000, [])
    windows = cut(low + high)
    assert described(windows[: len(cut(low))]) == described(cut(low))
    np.testing.assert_array_equal(windows[-1].samples, cut(high)[-1].samples)


def test_windows_follow_a_live_source_that_is_slewed() -> None:
    """A clock that is corrected a little with every chunk moves the windows with it."""
    slewed = [
        replace(chunk, captured_at=chunk.captured_at + i * 50)
        for i, chunk in enumerate(chunks(noise(20 * RATE), RATE, [2_205] * 200))
    ]
    for window in cut(slewed):
        i = window.offset // 2_205
        exact = STARTED_AT + window.offset * 1e6 / RATE + i * 50
        assert abs(window.started_at - exact) <= 3


def test_windows_outlive_the_buffer() -> None:
    """A window keeps its samples when more sound comes."""
    windower = Windower(RATE, WINDOW, HOP)
    sound = noise(20 * WINDOW)
    windows = [w for chunk in chunks(sound, RATE, [WINDOW] * 20) for w in windower.push(chunk)]
    for window in windows:
        np.testing.assert_array_equal(window.samples, sound[window.offset : window.offset + WINDOW])


@pytest.mark.parametrize("hop", [0, WINDOW + 1])
def test_a_hop_that_skips_sound_is_refused(hop: int) -> None:
    """A hop of nothing never ends, one longer than a window leaves sound out."""
    with pytest.raises(ValueError, match="hop_samples is"):
        Windower(RATE, WINDOW, hop)


def test_an_empty_source_gives_nothing() -> None:
    """Neither no chunk nor chunks of no samples make a window."""
    assert Windower(RATE, WINDOW, HOP).finish() == []
    nothing = AudioChunk(np.empty(0, np.float32), 48_000, STARTED_AT)
    assert cut([nothing, nothing]) == []
