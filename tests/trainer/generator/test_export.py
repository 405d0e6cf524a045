"""What the trainer exports, the station's torch runtime can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("onnxscript", reason="needs the extra 'train'")
pytest.importorskip("onnxruntime", reason="needs the extra 'cpu' or 'gpu'")

from fieldstation.generation.torch_graph import TorchGraph  # noqa: E402
from tests.trainer.generator.test_networks import awake  # noqa: E402
from trainer.generator.diffusion import Denoiser  # noqa: E402
from trainer.generator.export import checked_inputs, rounded, write_denoiser  # noqa: E402
from trainer.generator.profiles import PROFILES, config_named, diffusion_of  # noqa: E402


def test_the_profile_paper_is_computed_in_torch(tmp_path: Path) -> None:
    """Learnt resampling, a table of levels; `field` is the shipped bundle's, tested as such."""
    profile = PROFILES["paper"]
    config = replace(config_named(profile, "nano"), widths=(16, 32), n_embedding=64)
    denoiser = Denoiser(awake(config), diffusion_of(profile, sigma_data=0.5)).eval()
    write_denoiser(denoiser, tmp_path / "denoiser.onnx")
    graph = TorchGraph(tmp_path / "denoiser.onnx", torch.device("cpu"))
    inputs = checked_inputs()
    with torch.inference_mode():
        expected = rounded(denoiser)(*inputs)
        ours = graph(dict(zip(("x", "sigma", "condition"), inputs, strict=True)), "denoised")
    assert expected.std() > 0.01
    assert (ours - expected).abs().max() < 1e-3
