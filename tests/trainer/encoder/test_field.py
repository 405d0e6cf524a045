"""The field profile's network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.bundling import golden_waveforms, outputs_of  # noqa: E402
from trainer.encoder.field import FieldEncoder  # noqa: E402
from trainer.encoder.profiles import PROFILES  # noqa: E402
from trainer.encoder.running import cpu_session  # noqa: E402
from trainer.export import OUTPUTS, export_encoder, parity  # noqa: E402

PROFILE = PROFILES["field"]


@pytest.fixture(scope="module")
def encoder() -> FieldEncoder:
    """Return an untrained encoder."""
    torch.manual_seed(0)
    return FieldEncoder(21, PROFILE.mel).eval()


def test_shapes(encoder: FieldEncoder) -> None:
    """A 3 s window becomes n logits, an embedding of 512, a 96×256 log-mel, n logits a frame."""
    with torch.inference_mode():
        logits, embedding, mel, frame_logits = encoder(torch.randn(2, PROFILE.samples_per_window))
    assert logits.shape == (2, 21)
    assert embedding.shape == (2, 512)
    assert mel.shape == (2, 96, 256)
    assert frame_logits.shape == (2, 21, 16)


def test_a_logit_is_a_mean_of_its_frames(encoder: FieldEncoder) -> None:
    """A window is at most as sure as its surest frame: an event always has a frame."""
    with torch.inference_mode():
        logits, _, _, frame_logits = encoder(torch.randn(4, PROFILE.samples_per_window))
    assert (logits <= frame_logits.amax(dim=2) + 1e-5).all()
    assert (logits >= frame_logits.amin(dim=2) - 1e-5).all()


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
    waveforms = golden_waveforms(PROFILE.mel.sample_rate, n_samples)
    assert parity(encoder, graph, waveforms) < 1e-3
    session = cpu_session(graph)
    assert asdict(outputs_of(session)) == {name: name for name in OUTPUTS}
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(waveforms))
    for one, other in zip(session.run(OUTPUTS, {"waveform": waveforms}), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
