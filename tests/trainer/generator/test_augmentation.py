"""Changes of a picture of which the network is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.generator.augmentation import Augmentation, augmented, mirrored  # noqa: E402

ALWAYS = Augmentation(share=1.0)


def spots(n: int = 64) -> torch.Tensor:
    """Return pictures of a white spot in the middle of black."""
    images = -torch.ones(n, 3, 64, 64)
    images[:, :, 28:36, 28:36] = 1.0
    return images


def centre(images: torch.Tensor) -> np.ndarray:
    """Return where the spot of each picture is, [n, 2] as (x, y) from the middle, in sides."""
    light = (images[:, 0].double() + 1) / 2
    at = (torch.arange(64).double() + 0.5) / 64 - 0.5
    total = light.sum(dim=(1, 2))
    x = (light.sum(dim=1) * at).sum(dim=1) / total
    y = (light.sum(dim=2) * at).sum(dim=1) / total
    return torch.stack([x, y], dim=1).numpy()


def test_what_is_not_changed_is_not_touched() -> None:
    """No change is told where there is none, and pixels stay as they are."""
    images = torch.rand(64, 3, 64, 64)
    out, told = augmented(images, Augmentation(share=0.1), np.random.default_rng(0))
    still = ~told.any(dim=1)
    assert 20 < int(still.sum()) < 64
    torch.testing.assert_close(out[still], images[still], rtol=0, atol=0)
    assert all((out[i] != images[i]).any() for i in torch.nonzero(~still).flatten())


def test_the_network_is_told_of_every_shift() -> None:
    """The spot moves by the told amounts, against the sign of the map's."""
    only_shifts = replace(ALWAYS, log2_zoom=0.0, turn=0.0)
    out, told = augmented(spots(), only_shifts, np.random.default_rng(0))
    np.testing.assert_allclose(centre(out), -told[:, 1:3].numpy() * ALWAYS.shift, atol=0.01)


def test_the_network_is_told_of_every_zoom() -> None:
    """The spot's area grows by the square of the told zoom."""
    only_zooms = replace(ALWAYS, shift=0.0, turn=0.0)
    out, told = augmented(spots(), only_zooms, np.random.default_rng(0))
    area = ((out[:, 0] + 1) / 2).sum(dim=(1, 2)) / 64
    np.testing.assert_allclose(area, 4.0 ** (told[:, 0] * ALWAYS.log2_zoom), rtol=0.1)


def test_the_network_is_told_of_every_turn() -> None:
    """A spot beside the middle goes round it by the told angle."""
    images = -torch.ones(64, 3, 64, 64)
    images[:, :, 28:36, 44:52] = 1.0
    only_turns = replace(ALWAYS, log2_zoom=0.0, shift=0.0)
    out, told = augmented(images, only_turns, np.random.default_rng(0))
    x, y = centre(out).T
    np.testing.assert_allclose(np.arctan2(-y, x), told[:, 3].numpy() * ALWAYS.turn, atol=0.02)


def test_colours_stay() -> None:
    """A plain picture of one colour stays that picture, whatever is done to it."""
    plain = torch.tensor([0.3, -0.2, 0.8])[None, :, None, None].expand(16, 3, 64, 64)
    out, _ = augmented(plain, ALWAYS, np.random.default_rng(0))
    torch.testing.assert_close(out, plain.contiguous(), atol=1e-5, rtol=0)


def test_half_are_mirrored() -> None:
    """Each is as it was or its mirror image."""
    images = torch.rand(200, 3, 8, 8)
    out = mirrored(images, np.random.default_rng(0))
    same = (out == images).flatten(1).all(dim=1)
    flipped = (out == images.flip(3)).flatten(1).all(dim=1)
    assert (same ^ flipped).all()
    assert 70 < int(flipped.sum()) < 130
