"""A picture of a call for people to look at: time to the right, frequency upwards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

N_FFT = 1024
"""Samples a column hears: 46 ms at 22,050 Hz, 21 Hz between rows"""
MAX_FREQUENCY = 12_000.0
"""Hertz; songs that pictures are painted from lie below"""
RANGE_DB = 65.0
"""Between the loudest cell and what is drawn darkest"""
COLOURS = np.array(
    [(4, 4, 14), (58, 15, 110), (150, 40, 120), (235, 95, 70), (252, 180, 90), (252, 250, 200)]
)
"""From quiet to loud"""


def draw_spectrogram(
    samples: NDArray[np.float32], sample_rate: int, size: tuple[int, int]
) -> Image.Image:
    """Return the spectrogram of mono samples as a picture of that width and height."""
    width, height = size
    levels = decibels(samples, width)
    n_rows = 1 + int(min(MAX_FREQUENCY, sample_rate / 2) * N_FFT / sample_rate)
    loudness = 1 + (levels[:n_rows] - levels.max()) / RANGE_DB
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(loudness, stops, channel) for channel in COLOURS.T]
    pixels = np.rint(np.stack(channels, axis=2)).astype(np.uint8)
    return Image.fromarray(pixels[::-1]).resize((width, height), Image.Resampling.BILINEAR)


def top_frequency(sample_rate: int) -> float:
    """Return the frequency at the spectrogram's upper edge, hertz."""
    return min(MAX_FREQUENCY, sample_rate / 2)


def decibels(samples: NDArray[np.float32], n_columns: int) -> NDArray[np.float64]:
    """Return the power of Hann-windowed pieces, decibels, [N_FFT / 2 + 1, n_columns].

    Full scale is 0 dB for a sine; the floor is -120.
    """
    room = np.zeros(max(len(samples), N_FFT), np.float64)
    room[: len(samples)] = samples
    starts = np.linspace(0, len(room) - N_FFT, n_columns).astype(np.int64)
    hann = np.hanning(N_FFT + 1)[:-1]
    pieces = room[starts[:, None] + np.arange(N_FFT)] * hann
    amplitude = np.abs(np.fft.rfft(pieces)) * 2 / hann.sum()
    return np.asarray(20 * np.log10(np.maximum(amplitude, 1e-6))).T
