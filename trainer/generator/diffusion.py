"""Two ways to make an image noisy and to learn to clean it, in one language.

Everywhere outside this file `x = image + sigma · noise` and `denoise(x, sigma)` returns the clean
image (Karras et al. 2022). The paper's way (Ho et al. 2020: T = 1000, linear schedule, the network
predicts the noise) is wrapped so that it speaks it too: its noisy image at step t is
`x / sqrt(1 + sigma²)` with `sigma² = (1 - ā) / ā`, which is the same picture on another scale.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

N_STEPS = 1000
BETAS = (1e-4, 0.02)
"""First and last of the linear schedule (Ho et al. 2020, section 4)"""

Floats = NDArray[np.float64]


class Diffusion(Protocol):
    """How noise is drawn in training, and what the network's answer means."""

    def draw_sigma(self, n: int, chance: np.random.Generator) -> Floats:
        """Return noise levels to train on, [n]."""

    def draw_sigma_on(self, n: int, device: torch.device) -> Tensor:
        """Return noise levels to train on, [n], drawn by the device itself."""

    def weight(self, sigma: Tensor) -> Tensor:
        """Return what a squared error of the clean image counts at a noise level."""

    def denoise(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor,
        augment: Tensor | None,
    ) -> Tensor:
        """Return the clean image that a network sees in `x`."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """How ln sigma is distributed in training."""

    mean: float = -0.8
    """The EDM paper's -1.2 suits 32×32: at 64×64 the same picture drowns at a higher sigma, and
    what a small network learns last is the coarse shape"""
    std: float = 1.2


@dataclass(frozen=True, slots=True)
class Edm:
    """Preconditioning and noise distribution of Karras et al. 2022, table 1."""

    sigma_data: float
    """Standard deviation of the images' pixels, in [-1, 1]"""
    noise: LogNormal = LogNormal()

    def draw_sigma(self, n: int, chance: np.random.Generator) -> Floats:
        """Return log-normal levels; one in each of n equal shares of probability.

        Strata make the loss of a small batch less noisy and leave its mean.
        """
        shares = (chance.permutation(n) + chance.random(n)) / n
        normal = torch.special.ndtri(torch.from_numpy(shares).clamp(1e-6, 1 - 1e-6)).numpy()
        sigma: Floats = np.exp(self.noise.mean + self.noise.std * normal)
        return sigma

    def draw_sigma_on(self, n: int, device: torch.device) -> Tensor:
        """Return such levels, rising: what they are put on is in no order."""
        shares = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n
        normal = torch.special.ndtri(shares.clamp(1e-6, 1 - 1e-6))
        sigma: Tensor = (self.noise.mean + self.noise.std * normal).exp()
        return sigma

    def weight(self, sigma: Tensor) -> Tensor:
        """Return λ(σ) = (σ² + σ_data²) / (σ σ_data)²: equal loss at every level at first."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def denoise(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor,
        augment: Tensor | None,
    ) -> Tensor:
        """Return c_skip x + c_out F(c_in x, ln σ / 4)."""
        s = sigma[:, None, None, None]
        total = (s**2 + self.sigma_data**2).sqrt()
        # A sine of 250 radians a unit of ln σ / 4 tells close levels apart.
        answer = network(x / total, sigma.log() * (1000 / 4), condition, augment)
        c_skip, c_out = (self.sigma_data / total) ** 2, s * self.sigma_data / total
        denoised: Tensor = c_skip * x + c_out * answer.float()
        return denoised


@dataclass(frozen=True, slots=True)
class Ddpm:
    """The paper's: linear schedule, T = 1000, the network predicts ε."""

    def draw_sigma(self, n: int, chance: np.random.Generator) -> Floats:
        """Return the levels of uniformly drawn steps."""
        return step_sigmas()[chance.integers(N_STEPS, size=n)]

    def draw_sigma_on(self, n: int, device: torch.device) -> Tensor:
        """Return the levels of uniformly drawn steps."""
        return sigmas_on(device)[torch.randint(N_STEPS, (n,), device=device)]

    def weight(self, sigma: Tensor) -> Tensor:
        """Return 1 / σ²: (x - σ ε̂ - image) / σ = ε - ε̂, the simple loss."""
        return sigma**-2

    def denoise(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor,
        augment: Tensor | None,
    ) -> Tensor:
        """Return x - σ ε̂(x / sqrt(1 + σ²), t)."""
        s = sigma[:, None, None, None]
        answer = network(x / (1 + s**2).sqrt(), nearest_step(sigma), condition, augment)
        denoised: Tensor = x - s * answer.float()
        return denoised


def step_sigmas() -> Floats:
    """Return sqrt((1 - ā) / ā) of every step, rising, [1000]."""
    kept = np.cumprod(1 - np.linspace(*BETAS, N_STEPS))
    sigmas: Floats = np.sqrt((1 - kept) / kept)
    return sigmas


def nearest_step(sigma: Tensor) -> Tensor:
    """Return the step whose noise level is nearest on a logarithmic scale, as float32.

    Counting the borders below it is exact at the steps themselves and is plain arithmetic in a
    graph.
    """
    borders = borders_on(sigma.device) if sigma.is_cuda else step_borders()
    return (sigma.log()[:, None] > borders[None, :]).float().sum(dim=1)


def step_borders() -> Tensor:
    """Return where one step's ln sigma ends and the next one's begins, [999]."""
    steps = np.log(step_sigmas())
    return torch.from_numpy((steps[1:] + steps[:-1]) / 2).float()


@functools.cache
def borders_on(device: torch.device) -> Tensor:
    """Return the borders on a device, sent once: a copy at each call would wait for it."""
    return step_borders().to(device)


@functools.cache
def sigmas_on(device: torch.device) -> Tensor:
    """Return the steps' noise levels on a device, sent once."""
    return torch.from_numpy(step_sigmas()).float().to(device)


class Denoiser(nn.Module):
    """What is exported: (x, sigma, condition) -> denoised, with the preconditioning inside."""

    def __init__(self, network: nn.Module, diffusion: Diffusion) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network
        self.diffusion = diffusion

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor, augment: Tensor | None = None
    ) -> Tensor:
        """Return the clean image, float32 [batch, 3, side, side]."""
        denoised: Tensor = self.diffusion.denoise(self.network, x, sigma, condition, augment)
        return denoised


def loss_of(
    denoiser: Denoiser,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    condition: Tensor,
    augment: Tensor | None,
) -> Tensor:
    """Return each image's weighted mean squared error, [batch]."""
    x = images + sigma[:, None, None, None] * noise
    denoised = denoiser(x, sigma, condition, augment)
    errors: Tensor = (denoised - images).square().mean(dim=(1, 2, 3))
    return denoiser.diffusion.weight(sigma) * errors


def power_decay(step: int, relative_width: float) -> float:
    """Return the decay of a power-function average before step `step` (Karras et al. 2024).

    Its width stays the same share of the training, however long that becomes: nothing to choose
    for a training that goes on for as many hours as there are. (eq. 2 and appendix C: std
    σ_rel = (γ + 1)^½ (γ + 2)^-1 (γ + 3)^-½.)
    """
    gamma = _gamma(relative_width)
    return float((1 - 1 / (step + 1)) ** (gamma + 1))


def _gamma(relative_width: float) -> float:
    """Return γ for σ_rel, by bisection: σ_rel falls as γ rises."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        width = math.sqrt(middle + 1) / (middle + 2) / math.sqrt(middle + 3)
        low, high = (middle, high) if width > relative_width else (low, middle)
    return low
