"""What a GPU draws for itself is what the CPU draws, in other random numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.generator.test_training import PLAN, training, weights  # noqa: E402
from tests.trainer.generator.tiny import TINY_PROFILE, lessons  # noqa: E402
from trainer.data.images import GARDEN  # noqa: E402
from trainer.generator.augmentation import Augmentation  # noqa: E402
from trainer.generator.batches import augmented_on, drawn_on, shelf_on  # noqa: E402
from trainer.generator.course import NULL, Lessons, draw, pixels_of  # noqa: E402
from trainer.generator.diffusion import Ddpm, Edm, step_sigmas  # noqa: E402
from trainer.generator.profiles import PROFILES, Profile  # noqa: E402
from trainer.generator.training import (  # noqa: E402
    Progress,
    load_checkpoint,
    save_checkpoint,
    take_step,
    train,
)

CPU = torch.device("cpu")
N = 4000


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    """Return lessons of three species, and of one to pre-train on."""
    return lessons(tmp_path_factory.mktemp("lessons"))


@pytest.mark.parametrize("name", ["field", "paper"])
def test_a_batch_has_the_same_mixture(given: Lessons, name: str) -> None:
    """Species, label vectors, null vectors and calls come as often as the CPU draws them."""
    profile = replace(PROFILES[name], augmentation=None)
    torch.manual_seed(0)
    batch = drawn_on(shelf_on(CPU, given, profile), profile, GARDEN, N)
    drawn = draw(given, profile, GARDEN, N, np.random.default_rng(0))
    labels = np.bincount(batch.species[~batch.is_row[:, 0]].numpy() + 1, minlength=6) / N
    expected = np.bincount(drawn.species[drawn.row < 0] + 1, minlength=6) / N
    np.testing.assert_allclose(labels, expected, atol=0.03)
    assert float(batch.is_row.float().mean()) == pytest.approx((drawn.row >= 0).mean(), abs=0.03)


@pytest.mark.parametrize("name", ["field", "paper"])
def test_a_photograph_comes_with_a_call_of_its_species(given: Lessons, name: str) -> None:
    """Each pair of the GPU is one that the CPU might have drawn, and all of those come."""
    profile = replace(PROFILES[name], augmentation=None, null_share=0.0, label_share=0.0)
    batch = drawn_on(shelf_on(CPU, given, profile), profile, GARDEN, N)
    drawn = draw(given, profile, GARDEN, N, np.random.default_rng(1))
    heard = batch.is_row[:, 0].numpy()
    found = pairs(given, batch.images.numpy()[heard], batch.rows.numpy()[heard])
    kept = drawn.row >= 0
    both = pixels_of(given, drawn.image[kept]), given.conditions[drawn.row[kept]]
    assert found == pairs(given, *both)


def pairs(given: Lessons, images: np.ndarray, rows: np.ndarray) -> set[tuple[float, float]]:
    """Return pairs of a photograph (whichever way round) and a call."""
    sums = images.astype(np.float64).sum(axis=(1, 2, 3)).round(3)
    return set(zip(sums.tolist(), rows[:, 0].astype(np.float64).round(5).tolist(), strict=True))


def test_an_augmented_image_is_moved_as_it_says() -> None:
    """What is not changed stays as it is, to the bit."""
    how = Augmentation(share=0.5)
    images = torch.rand(200, 3, 8, 8)
    moved, amounts = augmented_on(images, how)
    still = ~(amounts != 0).any(dim=1)
    assert 0 < int(still.sum()) < 40  # (1 - 1/2)⁴ of 200 is 12.5
    torch.testing.assert_close(moved[still], images[still], rtol=0, atol=0)
    assert not torch.equal(moved[~still], images[~still])


def test_noise_levels_are_drawn_alike() -> None:
    """Log-normal levels by shares of probability; the paper's are levels of its own steps."""
    log = Edm(0.5).draw_sigma_on(N, CPU).log()
    assert float(log.mean()) == pytest.approx(-0.8, abs=0.01)
    assert float(log.std()) == pytest.approx(1.2, abs=0.01)
    steps = set(step_sigmas().astype(np.float32).tolist())
    assert set(Ddpm().draw_sigma_on(N, CPU).tolist()) <= steps


def test_a_gpu_training_resumes_where_it_was_broken_off(given: Lessons, tmp_path: Path) -> None:
    """There too a step is a function of seed and step number, bit for bit."""
    profile: Profile = TINY_PROFILE
    shelf = shelf_on(CPU, given, profile)
    whole = replace(training(given, tmp_path / "whole"), shelf=shelf)
    train(whole, Progress())
    first = replace(training(given, tmp_path / "broken"), shelf=shelf)
    progress = Progress()
    progress.loss += take_step(first, progress)
    progress.step, progress.images_seen, progress.n_losses = 1, PLAN.batch_size, 1
    save_checkpoint(first, progress)
    again = replace(training(given, tmp_path / "broken"), shelf=shelf)
    train(again, load_checkpoint(again))
    np.testing.assert_array_equal(weights(again.generator), weights(whole.generator))
    assert (
        again.metrics.read_text().split('"loss"')[1] == whole.metrics.read_text().split('"loss"')[1]
    )


def test_a_species_without_calls_is_told_by_its_label(given: Lessons) -> None:
    """It has no row to draw."""
    profile = replace(PROFILES["field"], augmentation=None, null_share=0.0)
    batch = drawn_on(shelf_on(CPU, given, profile), profile, GARDEN, N)
    silent = [i for i in range(len(given.species)) if not given.heard(i)]
    told = batch.species[batch.is_row[:, 0]]
    assert not set(told.tolist()) & set(silent)
    assert NULL not in batch.species.tolist()
