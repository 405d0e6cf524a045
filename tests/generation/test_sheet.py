"""The sheet shows the call as it sounded, and beside it pictures that say what they are."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fieldstation.generation.pictures import PAPER, STRIP_HEIGHT
from fieldstation.generation.sheet import CALL_WIDTH, GAP, PICTURE_WIDTH, Sound, make_sheet
from fieldstation.generation.spectrogram import (
    COLOURS,
    N_FFT,
    decibels,
    draw_spectrogram,
    top_frequency,
)
from tests.generation.test_pictures import PROVENANCE
from tests.onnx_models import tone

RATE = 22_050
CELL = PICTURE_WIDTH + STRIP_HEIGHT


@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_a_sine_stands_at_its_frequency_with_its_level(amplitude: float) -> None:
    """Full scale is 0 dB; ten times less is -20; the other rows are far below."""
    frequency = 96 * RATE / N_FFT
    levels = decibels(tone(frequency, 1.0, RATE, amplitude), 20)
    assert levels.shape == (N_FFT // 2 + 1, 20)
    assert (levels.argmax(axis=0) == 96).all()
    assert levels.max(axis=0) == pytest.approx(20 * np.log10(amplitude), abs=0.01)
    assert levels[200:].max() < levels.max() - 60


@pytest.mark.parametrize("n_samples", [0, 10, 3 * RATE])
def test_silence_of_any_length_is_the_floor(n_samples: int) -> None:
    """Nothing divides by nothing, and what is shorter than a column is filled up."""
    silence = np.zeros(n_samples, np.float32)
    assert (decibels(silence, 7) == -120).all()
    assert draw_spectrogram(silence, RATE, (7, 5)).size == (7, 5)


def test_time_runs_to_the_right_and_frequency_upwards() -> None:
    """A low tone and then a high one go from below left to above right."""
    sound = np.concatenate([tone(1_000, 1, RATE), tone(9_000, 1, RATE)])
    drawn = np.asarray(draw_spectrogram(sound, RATE, (200, 110))).astype(int).sum(axis=2)
    low, high = drawn[:, 40].argmax(), drawn[:, 160].argmax()
    assert low == pytest.approx(110 * (1 - 1_000 / top_frequency(RATE)), abs=2)
    assert high == pytest.approx(110 * (1 - 9_000 / top_frequency(RATE)), abs=2)
    assert drawn.max() > 0.6 * COLOURS[-1].sum()


def test_beyond_twelve_kilohertz_nothing_is_drawn() -> None:
    """A recorder's ultrasound would press the song into the lowest rows."""
    assert (top_frequency(96_000), top_frequency(16_000)) == (12_000, 8_000)


def sheet(n: int, sound: Sound | None) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """Return the pixels and texts of a sheet of n pictures, each of one colour of its own."""
    colours = [(20 + 25 * i, 200 - 20 * i, 60) for i in range(n)]
    pictures = np.zeros((n, 64, 64, 3), np.uint8) + np.array(colours, np.uint8)[:, None, None]
    content = make_sheet(sound, pictures, replace(PROVENANCE, seed=1), range(1, n + 1))
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened), dict(opened.text)


@pytest.mark.parametrize(("n", "n_columns"), [(1, 1), (2, 2), (3, 2), (8, 4), (9, 4)])
def test_each_seed_has_its_picture_and_caption(n: int, n_columns: int) -> None:
    """Beside the spectrogram, row by row, enlarged, each over a strip of its own."""
    pixels, texts = sheet(n, Sound(tone(2_000, 1, RATE), RATE))
    for index in range(n):
        row, column = divmod(index, n_columns)
        y, x = row * (CELL + GAP), CALL_WIDTH + GAP + column * (PICTURE_WIDTH + GAP)
        assert pixels[y + 128, x + 128].tolist() == [20 + 25 * index, 200 - 20 * index, 60]
        strip = pixels[y + PICTURE_WIDTH : y + CELL, x : x + PICTURE_WIDTH]
        assert (strip.min(axis=2) > 200).any()
    assert texts["seed"] == " ".join(str(seed) for seed in range(1, n + 1))
    assert texts["Generated"] == "true"
    foot = pixels[-STRIP_HEIGHT:]
    assert (foot.min(axis=2) > 200).sum() > 100


def test_without_a_recording_the_pictures_stand_alone() -> None:
    """An event whose clip was not kept is painted all the same."""
    pixels, _ = sheet(2, None)
    assert pixels.shape == (CELL + STRIP_HEIGHT, 2 * PICTURE_WIDTH + GAP, 3)
    assert (pixels[:PICTURE_WIDTH, PICTURE_WIDTH : PICTURE_WIDTH + GAP] == PAPER).all()
