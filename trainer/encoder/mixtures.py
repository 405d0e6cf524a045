"""Windows of sound cut, stretched, filtered and mixed, a batch at once, as spectra on a device.

Everything but the cut is a product or a sum of spectra, and one spectrum gives the same sound at
any rate: what the student hears at 22,050 Hz a teacher hears at its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

N_POINTS = 8
"""Of the equaliser, evenly spaced in octaves"""
LOWEST_HZ = 100.0
AUDIBLE_HZ = 500.0
"""A level counts from here on: wind would drown every bird otherwise"""
STRETCHES = (60_025, 61_740, 63_000, 64_800, 66_150, 67_500, 68_600, 70_000, 72_000)
"""Samples that become a window of 66,150: 9 % slower and lower to 9 % faster and higher; products
of small primes, which a Fourier transform likes"""
STRANGE_STRETCHES = (
    *(46_305, 48_000, 50_400, 52_500, 55_125, 57_600),
    *(75_600, 78_750, 81_000, 84_000, 87_480, 91_875),
)
"""Likewise, 30 % slower and lower to 39 % faster and higher"""
PIECES = (1, 1, 2, 3, 4)
"""Of a strange window: parts of its recording in another order and at another pace"""
FADE = 110
"""Samples, 5 ms"""
QUIETEST = 1e-12


@dataclass(frozen=True, slots=True)
class Mixing:
    """How much of what; shares are of windows."""

    shift_s: float = 0.75
    """Windows start up to this much earlier or later: half a station's step"""
    mix_share: float = 0.5
    mix_db: float = 6.0
    """Level of a second window against the first, at most this far from it"""
    under_share: float = 0.5
    """Field recordings and background laid under"""
    under_db: tuple[float, float] = (-25.0, 0.0)
    tilt_db: float = 6.0
    """Spread of the equaliser's points"""
    distance_share: float = 0.3
    """Windows that lose their heights, as far sounds do"""
    gain_db: tuple[float, float] = (-36.0, 6.0)
    """Uploaded recordings are loud (median -31 dBFS above 1.5 kHz), field recorders are not"""
    strange_share: float = 0.5
    """Of batches: sounds that no bird makes, stretched further and moved up or down. They have no
    label, only a teacher's answer (docs/experiments.md, "Sounds that no bird makes")"""
    strange_shift_hz: float = 800.0
    """Such a window is moved by at most this much"""
    backward_share: float = 0.5
    """Of strange windows, those that are heard backwards"""


DEFAULT_MIXING = Mixing()


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Recordings end to end on a device."""

    samples: Tensor
    """float32 [total]"""
    sample_rate: int
    n_samples: int
    """Of a window"""

    def spectra(self, first: Tensor, begin: Tensor, end: Tensor, n_in: int) -> Tensor:
        """Return spectra complex64 [batch, n_samples // 2 + 1] of windows.

        Args:
            first: sample that each window begins with, [batch]; it may lie before the recording.
                Or of several, [batch, pieces]: the first piece of the one is followed by the
                second of the other.
            begin: of each window's recording.
            end: likewise; outside a recording stands silence.
            n_in: samples that are taken as a window: more than `n_samples` makes it faster.
        """
        place = torch.arange(n_in, device=first.device)
        n_pieces = first.numel() // len(first)
        at = first.view(-1, n_pieces)[:, place * n_pieces // n_in] + place
        is_inside = (at >= begin[:, None]) & (at < end[:, None])
        cut = self.samples[at.clamp(0, len(self.samples) - 1)] * is_inside
        if n_pieces > 1:
            cut = cut * joints(n_in, n_pieces, first.device)
        spectrum = torch.fft.rfft(cut) * (self.n_samples / n_in)
        n_bins = self.n_samples // 2 + 1
        missing = n_bins - spectrum.shape[1]
        # Rates above the window's own cannot be in it: they are cut off, or were never there.
        return (
            torch.nn.functional.pad(spectrum, (0, missing)) if missing > 0 else spectrum[:, :n_bins]
        )

    def frequencies(self) -> Tensor:
        """Return the frequency of each bin in hertz."""
        n_bins = self.n_samples // 2 + 1
        return torch.arange(n_bins, device=self.samples.device) * self.sample_rate / self.n_samples


def joints(n_in: int, n_pieces: int, device: torch.device) -> Tensor:
    """Return the loudness of pieces end to end, [n_in]: each fades, or it would click."""
    place = torch.arange(n_in, device=device) * n_pieces / n_in
    from_joint = (place - place.round()).abs() * n_in / n_pieces
    is_inner = (place.round() > 0) & (place.round() < n_pieces)
    return torch.where(is_inner, (from_joint / FADE).clamp(max=1), 1.0)


def heard_at(spectrum: Tensor, n_samples: int, n_out: int) -> Tensor:
    """Return waveforms float32 [batch, n_out] of spectra: the same three seconds at another rate.

    Args:
        n_samples: of the windows that the spectra were made for.
    """
    missing = n_out // 2 + 1 - spectrum.shape[1]
    padded = torch.nn.functional.pad(spectrum, (0, max(0, missing)))[:, : n_out // 2 + 1]
    waveform: Tensor = torch.fft.irfft(padded, n_out) * (n_out / n_samples)
    return waveform


def level(spectrum: Tensor, frequencies: Tensor) -> Tensor:
    """Return the power of each spectrum's audible part, [batch]."""
    audible = spectrum[:, frequencies >= AUDIBLE_HZ]
    power: Tensor = (audible.real.square() + audible.imag.square()).sum(dim=1)
    return power.clamp(min=QUIETEST)


def equaliser(frequencies: Tensor) -> Tensor:
    """Return what spreads `N_POINTS` gains over all bins, linear in octaves, [points, bins]."""
    octaves = torch.log2(frequencies.clamp(min=LOWEST_HZ) / LOWEST_HZ)
    at = octaves / octaves[-1] * (N_POINTS - 1)
    points = torch.arange(N_POINTS, device=at.device)[:, None]
    return (1 - (at - points).abs()).clamp(min=0)


class Mixer:
    """Draws what becomes of a batch; all its chance comes from the generator it is given."""

    def __init__(self, sound: Sound, how: Mixing) -> None:
        """Lay out what every batch needs."""
        self.sound, self.how = sound, how
        self.frequencies = sound.frequencies()
        self.equaliser = equaliser(self.frequencies)

    def filtered(self, spectrum: Tensor, chance: torch.Generator) -> Tensor:
        """Return spectra through a random equaliser, some of them from afar."""
        n, device = len(spectrum), spectrum.device
        points = torch.randn(n, N_POINTS, generator=chance, device=device) * self.how.tilt_db
        curve = points @ self.equaliser
        corner = 2000 * 4 ** torch.rand(n, 1, generator=chance, device=device)
        slope = 12 * torch.rand(n, 1, generator=chance, device=device)
        is_far = torch.rand(n, 1, generator=chance, device=device) < self.how.distance_share
        above = torch.log2((self.frequencies / corner).clamp(min=1))
        curve = curve - is_far * slope * above
        return spectrum * torch.exp(curve * (math.log(10) / 20))

    def moved(self, spectrum: Tensor, chance: torch.Generator) -> Tensor:
        """Return spectra moved up or down, all lines of a window by the same number of hertz.

        Unlike a stretch it leaves the pace; what would lie beyond either end is lost.
        """
        n, n_bins = spectrum.shape
        reach = self.how.strange_shift_hz * self.sound.n_samples / self.sound.sample_rate
        shift = between(-reach, reach, n, chance, self.frequencies).long()
        at = torch.arange(n_bins, device=spectrum.device) - shift[:, None]
        is_inside = (at >= 0) & (at < n_bins)
        return spectrum.gather(1, at.clamp(0, n_bins - 1)) * is_inside

    def turned(self, spectrum: Tensor, chance: torch.Generator) -> Tensor:
        """Return spectra of which some are heard backwards: a rise becomes a fall."""
        is_turned = (
            torch.rand(len(spectrum), 1, generator=chance, device=spectrum.device)
            < self.how.backward_share
        )
        return torch.where(is_turned, spectrum.conj(), spectrum)

    def laid_over(self, spectrum: Tensor, other: Tensor, relative_db: Tensor) -> Tensor:
        """Return both at once, the second at a level against the first, [batch] dB."""
        ratio = level(spectrum, self.frequencies) / level(other, self.frequencies)
        factor = torch.sqrt(ratio) * 10 ** (relative_db / 20)
        return spectrum + other * factor[:, None]


def between(low: float, high: float, n: int, chance: torch.Generator, like: Tensor) -> Tensor:
    """Return n evenly distributed numbers, [n], on a tensor's device."""
    return low + (high - low) * torch.rand(n, generator=chance, device=like.device)
