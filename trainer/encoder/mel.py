"""The log-mel front end, as matrix products that go into the graph with the network.

A discrete Fourier transform of length N = rows × columns splits into two short ones
(Cooley & Tukey 1965). With n = columns·r + c and k = p + rows·q:

    X[p + rows·q] = Σ_c e^{-2πi·(c·q/columns + c·p/N)} · Σ_r x[n] w[n] e^{-2πi·r·p/rows}

The inner sum is one small matrix for all columns, the outer one (twiddle folded in) a matrix per
p; the Slaney filter bank is a third product. Since x is real, p runs over 0..rows/2 only: every
frequency, or its mirror N - k, is among those bins.
Folding the window and the twiddle into the inner sum spares a pass over the frames but makes a
matrix per column, and the transposition for it costs more: 3.1 ms a window where this takes 1.8
(and librosa 4.1), on one core of the machine that this was written on.
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


@dataclass(frozen=True, slots=True)
class MelConfig:
    """The time-frequency grid of a front end."""

    sample_rate: int = 22_050
    """Hertz"""
    n_fft: int = 2048
    """Samples in a frame: a product of two factors, and a multiple of `hop_length`"""
    hop_length: int = 512
    """Samples between frame starts"""
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

    hann: Tensor
    fourier_rows: Tensor
    fourier_real: Tensor
    fourier_imaginary: Tensor
    filter_bank: Tensor

    def __init__(self, config: MelConfig, rows: int | None = None) -> None:
        """Lay out the window and the three matrices.

        Args:
            rows: the factor of n_fft that is transformed first; None takes the cheapest.

        Raises:
            ValueError: n_fft is no multiple of the hop, or has no even factor `rows`.
        """
        super().__init__()
        if config.n_fft % config.hop_length:
            raise ValueError(
                f"n_fft is {config.n_fft}; must be a multiple of hop_length {config.hop_length}"
            )
        self.config = config
        self.rows = rows or cheapest_rows(config.n_fft)
        if config.n_fft % self.rows or self.rows % 2:
            raise ValueError(f"rows is {self.rows}; must be an even factor of {config.n_fft}")
        self.columns = config.n_fft // self.rows
        columns = _column_transforms(self.rows, self.columns)
        for name, matrix in (
            ("hann", 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.n_fft) / config.n_fft)),
            ("fourier_rows", _row_transform(self.rows)),
            ("fourier_real", columns[:, :, : self.columns]),
            ("fourier_imaginary", columns[:, :, self.columns :]),
            ("filter_bank", _folded_filter_bank(config, self.rows)),
        ):
            tensor = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-mel spectrogram; see the class."""
        power = self.folded_power(self.frames(waveform))
        mel = torch.matmul(power, self.filter_bank)
        return torch.log(torch.clamp(mel, min=FLOOR)).transpose(1, 2)

    def frames(self, waveform: Tensor) -> Tensor:
        """Return overlapping frames [batch, frames, n_fft], joined from shifted hops."""
        half, hop = self.config.n_fft // 2, self.config.hop_length
        n_frames = self.config.n_frames(waveform.shape[1])
        hops_per_frame = self.config.n_fft // hop
        padded = nn.functional.pad(waveform, (half, half))
        n_hops = n_frames + hops_per_frame - 1
        hops = padded[:, : n_hops * hop].reshape(-1, n_hops, hop)
        return torch.cat([hops[:, i : i + n_frames] for i in range(hops_per_frame)], dim=2)

    def folded_power(self, frames: Tensor) -> Tensor:
        """Return |X|² [batch, frames, (rows/2 + 1)·columns] in the order that p, q count."""
        n_frames, half = frames.shape[1], self.rows // 2 + 1
        table = (frames * self.hann).reshape(-1, self.rows, self.columns)
        inner = torch.matmul(self.fourier_rows, table)
        # From here p leads: it has a matrix of its own. Runs of 2·columns values stay together.
        inner = inner.reshape(-1, half, 2 * self.columns).transpose(0, 1)
        # Two products, not one that is cut in half: the cut would copy everything.
        real = torch.matmul(inner, self.fourier_real)
        imaginary = torch.matmul(inner, self.fourier_imaginary)
        power = real * real + imaginary * imaginary
        return power.transpose(0, 1).reshape(-1, n_frames, half * self.columns)


def cheapest_rows(n_fft: int) -> int:
    """Return the even factor of n_fft that makes the two transforms cost the fewest products."""
    factors = [r for r in range(2, n_fft, 2) if n_fft % r == 0]
    if not factors:
        raise ValueError(f"n_fft is {n_fft}; must be a product of two factors, one even")

    def cost(rows: int) -> int:
        columns, half = n_fft // rows, rows // 2 + 1
        return columns * rows * 2 * half + half * (2 * columns) ** 2

    return min(factors, key=cost)


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


def _row_transform(rows: int) -> NDArray[np.float64]:
    """Return [(rows/2 + 1)·2, rows]: over r -> real and imaginary part of each p."""
    p, r = np.arange(rows // 2 + 1), np.arange(rows)
    turns = np.exp(-2j * np.pi * np.outer(p, r) / rows)
    return np.stack([turns.real, turns.imag], axis=1).reshape(-1, rows)


def _column_transforms(rows: int, columns: int) -> NDArray[np.float64]:
    """Return [rows/2 + 1, 2·columns, 2·columns]: twiddle and transform, c -> q, for each p.

    Rows are real then imaginary parts over c, columns likewise over q.
    """
    p, c = np.arange(rows // 2 + 1)[:, None, None], np.arange(columns)[None, :, None]
    q = np.arange(columns)[None, None, :]
    turns = np.exp(-2j * np.pi * (c * q / columns + c * p / (rows * columns)))
    return np.block([[turns.real, turns.imag], [-turns.imag, turns.real]])


def _folded_filter_bank(config: MelConfig, rows: int) -> NDArray[np.float64]:
    """Return the filter bank [(rows/2 + 1)·columns, n_mels] in the order of `folded_power`.

    A frequency that appears twice (as k and as N - k) counts half each time.
    """
    n_fft = config.n_fft
    p, q = np.arange(rows // 2 + 1)[:, None], np.arange(n_fft // rows)[None, :]
    k = (p + rows * q).ravel()
    k = np.minimum(k, n_fft - k)
    weight = 1.0 / np.bincount(k, minlength=n_fft // 2 + 1)[k]
    filters: NDArray[np.float64] = slaney_filter_bank(config).T[k] * weight[:, None]
    return filters
