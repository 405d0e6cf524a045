"""Preconditioning, losses and averages, held against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from torch import Tensor, nn  # noqa: E402

from fieldstation.generation.schedules import linear_sigmas  # noqa: E402
from trainer.generator.diffusion import (  # noqa: E402
    Ddpm,
    Denoiser,
    Edm,
    LogNormal,
    loss_of,
    nearest_step,
    power_decay,
    step_sigmas,
)

CONDITION = torch.zeros(4, 512)
SIGMA = torch.tensor([0.05, 0.5, 5.0, 50.0])


class Answer(nn.Module):
    """A network that answers the same whatever it is asked, and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        """Keep the answer."""
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor, level: Tensor, condition: Tensor, augment: object) -> Tensor:
        """Return the answer."""
        self.image, self.level = image, level
        return self.answer


def pictures() -> tuple[Tensor, Tensor]:
    """Return four images and noise for them."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1
    return images, torch.randn(images.shape, generator=generator)


def test_a_silent_network_is_the_best_linear_denoiser() -> None:
    """With F = 0, EDM's D is sd² / (sd² + σ²) x: what one would guess of Gaussian images."""
    network = Answer(torch.zeros(4, 3, 64, 64))
    x = torch.randn(4, 3, 64, 64)
    denoised = Denoiser(network, Edm(sigma_data=0.5))(x, SIGMA, CONDITION)
    expected = x * (0.25 / (0.25 + SIGMA**2))[:, None, None, None]
    torch.testing.assert_close(denoised, expected)


def test_edm_asks_the_network_with_unit_variance_and_weighs_all_levels_alike() -> None:
    """Inputs of standard deviation 1, and λ c_out² = 1, at any level (Karras et al. 2022)."""
    images = torch.randn(4, 3, 64, 64) * 0.5
    network = Answer(torch.zeros_like(images))
    edm = Edm(sigma_data=0.5)
    Denoiser(network, edm)(
        images + SIGMA[:, None, None, None] * torch.randn_like(images), SIGMA, CONDITION
    )
    assert network.image.std(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 4, rel=0.05)
    c_out = SIGMA * 0.5 / (SIGMA**2 + 0.25).sqrt()
    torch.testing.assert_close(edm.weight(SIGMA) * c_out**2, torch.ones(4))


def test_the_paper_way_finds_the_image_when_it_finds_the_noise() -> None:
    """ε̂ = ε gives the image back; the network sees √ā image + √(1 - ā) ε at step t."""
    images, noise = pictures()
    steps = [0, 10, 500, 999]
    sigma = torch.tensor(step_sigmas()[steps], dtype=torch.float32)
    network = Answer(noise)
    x = images + sigma[:, None, None, None] * noise
    denoised = Denoiser(network, Ddpm())(x, sigma, CONDITION)
    torch.testing.assert_close(denoised, images, atol=1e-4, rtol=0)
    assert network.level.tolist() == steps
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps]
    a = torch.tensor(kept, dtype=torch.float32)[:, None, None, None]
    torch.testing.assert_close(network.image, a.sqrt() * images + (1 - a).sqrt() * noise)


def test_the_paper_loss_is_the_simple_one() -> None:
    """The weighted error of the image is |ε - ε̂|² (Ho et al. 2020, eq. 14)."""
    images, noise = pictures()
    sigma = torch.tensor(step_sigmas()[[50, 300, 600, 900]], dtype=torch.float32)
    answer = torch.randn_like(noise)
    losses = loss_of(Denoiser(Answer(answer), Ddpm()), images, sigma, noise, CONDITION, None)
    torch.testing.assert_close(
        losses, (noise - answer).square().mean(dim=(1, 2, 3)), rtol=1e-3, atol=0
    )


def test_trainer_and_station_have_one_schedule() -> None:
    """The levels trained on are those that the station's ancestral sampler visits."""
    np.testing.assert_allclose(step_sigmas()[::-1], linear_sigmas(1000)[:-1], rtol=1e-9)
    levels = torch.tensor(linear_sigmas(50)[:-1], dtype=torch.float32)
    steps = nearest_step(levels)
    assert steps[0] == 999
    assert steps[-1] == 0
    np.testing.assert_allclose(step_sigmas()[steps.long()], levels, rtol=1e-4)


def test_levels_are_drawn_from_the_stated_distributions() -> None:
    """ln sigma is normal for EDM, and every stratum is hit once; steps are uniform for DDPM."""
    drawn = np.log(Edm(0.5, LogNormal(-0.8, 1.2)).draw_sigma(4000, np.random.default_rng(1)))
    assert drawn.mean() == pytest.approx(-0.8, abs=0.01)
    assert drawn.std() == pytest.approx(1.2, abs=0.02)
    few = np.sort(np.log(Edm(0.5, LogNormal(0.0)).draw_sigma(4, np.random.default_rng(1))))
    assert few[1] < 0 < few[2]
    steps = nearest_step(torch.from_numpy(Ddpm().draw_sigma(4000, np.random.default_rng(1))))
    assert float(steps.mean()) == pytest.approx(499.5, abs=20)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_the_average_has_the_width_that_was_asked_for(width: float) -> None:
    """Step by step, weight t of an unbroken training counts as t^γ: its spread is σ_rel."""
    n = 4000
    weight = np.zeros(n)
    for step in range(n):
        decay = power_decay(step, width)
        weight *= decay
        weight[step] = 1 - decay
    at = np.arange(n) / n
    mean = (weight * at).sum()
    assert weight.sum() == pytest.approx(1)
    assert np.sqrt((weight * (at - mean) ** 2).sum()) == pytest.approx(width, rel=0.02)
