"""The paper's network has the paper's shapes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.mel import MelConfig  # noqa: E402
from trainer.encoder.paper import PaperEncoder  # noqa: E402


def test_shapes_are_the_papers() -> None:
    """A 3 s window becomes a 12×12×128 map, n logits, and a 512-value embedding."""
    encoder = PaperEncoder(21, MelConfig()).eval()
    with torch.inference_mode():
        logits, embedding, mel = encoder(torch.randn(2, 66_150))
        last_map = encoder.blocks(mel.unsqueeze(1))
    assert last_map.shape == (2, 128, 12, 12)
    assert logits.shape == (2, 21)
    assert embedding.shape == (2, 512)
    assert mel.shape == (2, 128, 128)


def test_the_embedding_is_the_map_in_four_quarters() -> None:
    """Value (channel, row, column) of the embedding is the mean of that quarter of the map."""
    encoder = PaperEncoder(3, MelConfig()).eval()
    with torch.inference_mode():
        _, embedding, mel = encoder(torch.randn(1, 66_150))
        last_map = encoder.blocks(encoder.normalise(mel.unsqueeze(1)))
    quarters = embedding.reshape(128, 2, 2)
    torch.testing.assert_close(quarters[:, 0, 1], last_map[0, :, :6, 6:].mean(dim=(1, 2)))
