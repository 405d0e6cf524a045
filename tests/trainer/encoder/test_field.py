"""The field profile's network."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.bundling import golden_waveforms  # noqa: E402
from trainer.encoder.field import FieldEncoder  # noqa: E402
from trainer.encoder.profiles import PROFILES  # noqa: E402
from trainer.export import export_encoder, parity  # noqa: E402

PROFILE = PROFILES["field"]


@pytest.fixture(scope="module")
def encoder() -> FieldEncoder:
    """Return an untrained encoder."""
    torch.manual_seed(0)
    return FieldEncoder(21, PROFILE.mel).eval()


def test_shapes(encoder: FieldEncoder) -> None:
    """A 3 s window becomes n logits, an embedding of 512 and a 96×256 log-mel."""
    with torch.inference_mode():
        logits, embedding, mel = encoder(torch.randn(2, PROFILE.samples_per_window))
    assert logits.shape == (2, 21)
    assert embedding.shape == (2, 512)
    assert mel.shape == (2, 96, 256)


def test_it_is_small(encoder: FieldEncoder) -> None:
    """Between 0.3 and 3 million weights."""
    assert 0.3e6 < sum(p.numel() for p in encoder.parameters()) < 3e6


def test_a_call_is_found_wherever_it_stands(encoder: FieldEncoder) -> None:
    """Attention weighs frames, not their places: moving a map by two frames moves nothing else."""
    last_map = torch.rand(1, 128, 6, 16)
    with torch.inference_mode():
        here = encoder.logits_of(encoder.features_of(last_map))
        there = encoder.logits_of(encoder.features_of(last_map.roll(2, dims=3)))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)


def test_a_graph_gives_the_networks_logits(encoder: FieldEncoder, tmp_path: Path) -> None:
    """Exported, it differs by less than a thousandth, for one window and for several."""
    n_samples, graph = PROFILE.samples_per_window, tmp_path / "encoder.onnx"
    export_encoder(encoder, n_samples, graph)
    assert parity(encoder, graph, golden_waveforms(PROFILE.mel.sample_rate, n_samples)) < 1e-3
