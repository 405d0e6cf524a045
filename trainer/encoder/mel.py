"""The log-mel front end, as matrix products that go into the graph with the network.

A discrete Fourier transform of length N = rows × columns splits into two short ones
(Cooley & Tukey 1965). With n = columns·r + c and k = p + rows·q:

    X[k] = Σ_c e^{-2πi·c·k/N} · Σ_r x[n] w[n] e^{-2πi·r·p/rows}

The inner sum is a small matrix per column c, window folded in; the outer one (twiddle folded in) a
matrix per p; the Slaney filter bank is a third product. Since x is real, p below rows/2 is enough:
every frequency, or its mirror N - k, is among those bins. For p = 0 and p = rows/2 the inner sum
is real, and the two share a place.
Time is the last axis from the first product to the log-mel, and a hop of samples is a column: the
inner sum is then a convolution over hops that needs no frames laid out, and nothing but the
waveform is transposed. docs/experiments.md has what else was tried.
`bench/mel.py` measures it beside librosa, which is also the reference in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FLOOR = 1e-10
"""Power below which the logarithm does not look: -100 dB re full-scale power"""
FAINTEST = 1e-15
"""Added to every sample. With numbers below 1e-38 a processor takes 20 times as long; beside this a
sample so faint counts for nothing."""
FAINTEST_SUM = 1e-12
"""Added to sums of samples for the same: power is their square, which is far below `FLOOR`"""


@dataclass(frozen=True, slots=True)
class MelConfig:
    """The time-frequency grid of a front end."""

    sample_rate: int = 22_050
    """Hertz"""
    n_fft: int = 2048
    """Samples in a frame: a multiple of `hop_length` and of 4"""
    hop_length: int = 512
    """Samples between frame starts: even"""
    n_mels: int = 128
    fmin: float = 0.0
    """Hertz"""
    fmax: float | None = None
    """Hertz; None means half the sample rate"""

    def n_frames(self, n_samples: int) -> int:
        """Return the frames of a centre-padded waveform."""
        return 1 + n_samples // self.hop_length


class LogMel(nn.Module):
    """Waveform float32 [batch, samples] -> log-mel float32 [batch, n_mels, frames].

    Natural logarithm of power clamped at `FLOOR`, absolute: nothing is normalised per window.
    Padding (zeros, half a frame at both ends), Hann window, filter bank and its area
    normalisation are the defaults of librosa.feature.melspectrogram 0.11.
    """

    faintest: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    filter_bank: Tensor
    window: Tensor
    by_line: Tensor
    """The filter bank over lines in their order"""

    def __init__(self, config: MelConfig, rows: int | None = None) -> None:
        """Lay out the three matrices.

        Args:
            rows: the factor of n_fft that is transformed first; None takes the cheapest.

        Raises:
            ValueError: n_fft and hop do not fit each other, or n_fft has no such factor `rows`.
        """
        super().__init__()
        if config.n_fft % config.hop_length or config.n_fft % 4 or config.hop_length % 2:
            raise ValueError(
                f"n_fft is {config.n_fft} and hop_length {config.hop_length}: choose an even "
                "hop_length, and as n_fft a multiple of it and of 4"
            )
        self.config = config
        self.rows = rows or cheapest_rows(config)
        if self.rows not in possible_rows(config):
            raise ValueError(f"rows is {self.rows}; must be one of {possible_rows(config)}")
        self.columns = config.n_fft // self.rows
        bins = _bins(self.rows, self.columns)
        for name, matrix in (
            # A number for each sample of a hop: a single one so small the exporter leaves out.
            ("faintest", np.full(config.hop_length, FAINTEST)),
            ("inner", _inner_transforms(config, self.rows)),
            ("inner_bias", _bias(self.rows, self.columns)),
            ("outer", _outer_transforms(bins)),
            ("filter_bank", slaney_filter_bank(config)[:, _mirrored(bins).ravel()]),
            ("window", _hann(config.n_fft)),
            ("by_line", slaney_filter_bank(config)),
        ):
            tensor = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, waveform: Tensor, n_frames: int | None = None) -> Tensor:
        """Return the log-mel spectrogram; see the class.

        Args:
            n_frames: how many frames, the middle ones; None means all.
        """
        n_frames = n_frames or self.config.n_frames(waveform.shape[1])
        power = self.power(self.hops(waveform, n_frames))
        mel = torch.matmul(self.filter_bank, power).reshape(self.config.n_mels, -1, n_frames)
        return torch.log(torch.clamp(mel.transpose(0, 1), min=FLOOR))

    def by_fft(self, waveform: Tensor, n_frames: int) -> Tensor:
        """Return the same within rounding, quicker in training; no graph for stations holds it."""
        n_fft = self.config.n_fft
        spectra = torch.stft(
            waveform,
            n_fft,
            self.config.hop_length,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        first = (spectra.shape[2] - n_frames) // 2
        middle = spectra[:, :, first : first + n_frames]
        power = middle.real.square() + middle.imag.square()
        return torch.log(torch.matmul(self.by_line, power).clamp(min=FLOOR))

    def hops(self, waveform: Tensor, n_frames: int) -> Tensor:
        """Return the hops of the middle frames, [1, hop_length, batch, hops], column by column.

        Of a hop's samples come first those of column 0, then those of column 1.
        """
        hop, n_samples = self.config.hop_length, waveform.shape[1]
        n_hops = n_frames + self.config.n_fft // hop - 1
        first = (self.config.n_frames(n_samples) - n_frames) // 2
        before = self.config.n_fft // 2 - first * hop
        padded = nn.functional.pad(waveform, (before, n_hops * hop - before - n_samples))
        by_sample = (padded.reshape(-1, hop) + self.faintest).transpose(0, 1)
        by_column = by_sample.reshape(hop // self.columns, self.columns, -1).transpose(0, 1)
        return by_column.reshape(1, hop, -1, n_hops)

    def power(self, hops: Tensor) -> Tensor:
        """Return |X|² [rows/2·columns, batch·frames] in the order of `_bins`."""
        half, columns = self.rows // 2, self.columns
        # TF32, which a GPU would take, has a noise floor that one hears.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            inner = nn.functional.conv2d(hops, self.inner, self.inner_bias, groups=columns)
        # From here p leads: it has a matrix of its own.
        inner = inner.reshape(2 * columns, half, -1).transpose(0, 1)
        outer = torch.matmul(self.outer, inner)
        squares = (outer * outer).reshape(half, 2, columns, -1)
        return squares.sum(dim=1).reshape(half * columns, -1)


def possible_rows(config: MelConfig) -> list[int]:
    """Return the even factors of n_fft that leave an even number of columns to a hop: n_fft/2 at
    least is one."""
    n_fft, hop = config.n_fft, config.hop_length
    pairs = ((rows, n_fft // rows) for rows in range(2, n_fft, 2) if n_fft % rows == 0)
    return [rows for rows, columns in pairs if columns % 2 == 0 and hop % columns == 0]


def cheapest_rows(config: MelConfig) -> int:
    """Return the factor of n_fft that makes the two transforms cost the fewest products."""
    # Of two that cost the same, the one of the larger matrices first: fewer groups.
    return min(possible_rows(config), key=lambda rows: (rows + 2 * config.n_fft // rows, -rows))


def slaney_filter_bank(config: MelConfig) -> NDArray[np.float64]:
    """Return triangular filters of equal area, [n_mels, n_fft/2 + 1].

    Source: Slaney (1998), Auditory Toolbox: linear below 1 kHz, logarithmic above.
    """
    top = config.fmax or config.sample_rate / 2
    marks = _mel_to_hertz(
        np.linspace(_hertz_to_mel(config.fmin), _hertz_to_mel(top), config.n_mels + 2)
    )
    bins = np.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    rising = (bins - marks[:-2, None]) / np.diff(marks)[:-1, None]
    falling = (marks[2:, None] - bins) / np.diff(marks)[1:, None]
    area = 2.0 / (marks[2:] - marks[:-2])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * area[:, None]
    return filters


_LINEAR_HZ = 200 / 3
"""Hertz per mel below the knee"""
_KNEE_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
"""27 mels span the factor 6.4 above the knee"""


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _KNEE_HZ:
        return hertz / _LINEAR_HZ
    return _KNEE_HZ / _LINEAR_HZ + math.log(hertz / _KNEE_HZ) / _LOG_STEP


def _mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _KNEE_HZ / _LINEAR_HZ
    hertz: NDArray[np.float64] = np.where(
        mel < knee, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_LOG_STEP * (mel - knee))
    )
    return hertz


def _bins(rows: int, columns: int) -> NDArray[np.int64]:
    """Return the frequency k of each place [rows/2, columns]: p + rows·q.

    Where p is 0, the second half of the places are those of p = rows/2: of a real signal's two,
    the other halves are mirrors. Each of 0..n_fft/2 - 1, or its mirror, is there once; no filter
    reaches n_fft/2.
    """
    bins = np.arange(rows // 2)[:, None] + rows * np.arange(columns)
    bins[0, columns // 2 :] = rows // 2 + bins[0, : columns // 2]
    return bins


def _mirrored(bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the frequencies 0..n_fft/2 that have the power of those given."""
    mirrored: NDArray[np.int64] = np.minimum(bins, 2 * bins.size - bins)
    return mirrored


def _inner_transforms(config: MelConfig, rows: int) -> NDArray[np.float64]:
    """Return window and transform, r -> p, as a convolution's weights over hops, a column a group.

    [columns·2·rows/2, rows a hop, 1, hops a frame]; of a column real, then imaginary parts over p.
    """
    n_fft = config.n_fft
    hann = _hann(n_fft)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(rows // 2), np.arange(rows)) / rows)
    parts = np.stack([turns.real, turns.imag])
    parts[1, 0] = np.cos(np.pi * np.arange(rows))  # p = rows/2 in the empty place
    windowed = parts.reshape(rows, rows) * hann.reshape(rows, -1).T[:, None, :]
    n_hops = n_fft // config.hop_length
    by_hop = windowed.reshape(-1, n_hops, rows // n_hops)
    return by_hop.transpose(0, 2, 1)[:, :, None]


def _hann(n_fft: int) -> NDArray[np.float64]:
    window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window


def _bias(rows: int, columns: int) -> NDArray[np.float64]:
    """Return what is added to the inner sums, a column after the other: to those of one alone,
    since equal ones cancel out in the outer sum."""
    bias = np.zeros((columns, rows))
    bias[1] = FAINTEST_SUM
    return bias.ravel()


def _outer_transforms(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return twiddle and transform, c -> q, for each p: [rows/2, 2·columns, 2·columns].

    Rows are real then imaginary parts over q, columns the same parts of each c in turn.
    """
    half, columns = bins.shape
    turns = np.exp(-2j * np.pi * bins[:, :, None] * np.arange(columns) / (2 * bins.size))
    by_real = np.stack([turns.real, turns.imag], axis=1)
    by_imaginary = np.stack([-turns.imag, turns.real], axis=1)
    # The place of p = 0 holds two real sums, each with frequencies of its own.
    by_imaginary[0] = by_real[0]
    by_imaginary[0, :, : columns // 2] = 0
    by_real[0, :, columns // 2 :] = 0
    return np.stack([by_real, by_imaginary], axis=-1).reshape(half, 2 * columns, -1)
