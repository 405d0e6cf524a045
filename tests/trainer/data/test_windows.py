"""Windows cover a recording, and silence is not taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.recordings import RATE, tone
from trainer.data.audio import AudioSet
from trainer.data.recordings import Recording
from trainer.data.windows import (
    WindowGrid,
    active_windows,
    activity_db,
    all_windows,
    window_starts,
)

GRID = WindowGrid(3 * RATE, 3 * RATE // 2)


def audio_set(*recordings: np.ndarray) -> AudioSet:
    """Return decoded recordings without files."""
    return AudioSet(
        tuple(Recording(Path(f"{i}.wav"), f"{i}.wav") for i in range(len(recordings))),
        np.concatenate(recordings),
        np.cumsum([0, *(len(r) for r in recordings)]),
        RATE,
    )


@given(st.integers(0, 1_000_000), st.integers(1, 70_000), st.integers(1, 70_000))
def test_windows_fit_but_for_the_last(n_samples: int, length: int, hop: int) -> None:
    """There is always a window; none reaches beyond the end but one that is alone."""
    starts = window_starts(n_samples, WindowGrid(length, hop))
    assert starts[0] == 0
    assert (np.diff(starts)[:-1] == hop).all()
    assert 0 < np.diff(starts, append=starts[-1] + 1)[-1] <= hop
    assert len(starts) == 1 or starts[-1] + length <= n_samples
    assert n_samples - starts[-1] - length < max(length / 30, 1)


@pytest.mark.parametrize(
    ("seconds", "n_windows"),
    [(1.0, 1), (3.0, 1), (3.05, 1), (3.2, 2), (4.5, 2), (6.0, 3), (7.6, 5)],
)
def test_number_of_windows(seconds: float, n_windows: int) -> None:
    """A window every 1.5 s while it fits; a tenth of a second left over is one more."""
    assert len(window_starts(round(seconds * RATE), GRID)) == n_windows


def test_reading_pads_the_end_with_zeros() -> None:
    """A recording shorter than a window is followed by zeros, not by the next recording."""
    windows = all_windows(audio_set(tone(1000, 1), tone(3000, 3)), GRID)
    first, second = windows.read(np.array([0, 1]))
    np.testing.assert_array_equal(first[:RATE], tone(1000, 1))
    assert not first[RATE:].any()
    np.testing.assert_array_equal(second, tone(3000, 3))


def test_batches_are_all_windows_in_order() -> None:
    """Reading in batches is reading at once."""
    windows = all_windows(audio_set(tone(1000, 10), tone(3000, 4)), GRID)
    joined = np.concatenate(list(windows.batches(4)))
    np.testing.assert_array_equal(joined, windows.read(np.arange(len(windows))))


def test_silence_in_a_song_is_not_taught() -> None:
    """Of 6 s song, 12 s hiss, 6 s song, no window within the hiss is kept."""
    song, hiss = tone(3000, 6), tone(3000, 12, level=0.0)
    windows = active_windows(audio_set(np.concatenate([song, hiss, song])), GRID)
    at = windows.start / RATE
    assert set(at) >= {0.0, 1.5, 3.0, 18.0, 19.5, 21.0}
    assert not ((at >= 6) & (at <= 15)).any()


def test_wind_does_not_pass_for_song() -> None:
    """A rumble at 80 Hz as loud as a song at 4 kHz is far less active."""
    rumble, song = activity_db(tone(80, 3), RATE, GRID), activity_db(tone(4000, 3), RATE, GRID)
    assert song[0] - rumble[0] > 25


def test_every_recording_keeps_a_window() -> None:
    """Digital silence has no loudest second but keeps its place."""
    windows = active_windows(audio_set(np.zeros(4 * RATE, np.float32), tone(2000, 4)), GRID)
    assert set(windows.recording) == {0, 1}
