"""OpenVINO's BirdNET answers as torch's does: on a small graph of its kind."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")
if find_spec("openvino") is None:
    pytest.skip("needs the package openvino", allow_module_level=True)

from tests.trainer.data.test_birdnet_torch import N_SAMPLES, write_graph  # noqa: E402
from trainer.data.birdnet_openvino import BATCH, SPECTROGRAMS, FusedBirdNet  # noqa: E402
from trainer.data.birdnet_torch import BirdNetTorch  # noqa: E402
from trainer.data.recordings import DataError  # noqa: E402
from trainer.encoder.fitting import fused_teacher  # noqa: E402


@pytest.mark.parametrize("n", [1, BATCH, BATCH + 3])
def test_it_answers_as_torch_does(tmp_path: Path, n: int) -> None:
    """Logits and embeddings of whole batches and of what is left of one, but for rounding."""
    path = write_graph(tmp_path)
    waves = torch.from_numpy(
        np.random.default_rng(1).standard_normal((n, N_SAMPLES)).astype(np.float32)
    )
    wanted, wanted_embedding = BirdNetTorch(path, torch.device("cpu")).hear_batch(waves)
    logits, embedding = FusedBirdNet(path, n_threads=1).hear_batch(waves)
    torch.testing.assert_close(logits, wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(embedding, wanted_embedding, atol=0.05, rtol=0)
    assert wanted.std() > 0.2


def test_nobody_is_told_that_it_runs(tmp_path: Path) -> None:
    """OpenVINO's telemetry would send word at every import: it is never loaded."""
    FusedBirdNet(write_graph(tmp_path), n_threads=1)
    assert sys.modules["openvino_telemetry"] is None


def test_another_network_is_refused(tmp_path: Path) -> None:
    """A graph without BirdNET's spectrograms, and a file that is none, by their paths."""
    strange = onnx.helper.make_node("Erf", ["wave"], ["logits"])
    path = write_graph(tmp_path, [strange])
    with pytest.raises(DataError, match=rf"birdnet\.onnx is no BirdNET .*it has no {SPECTROGRAMS}"):
        FusedBirdNet(path, n_threads=1)
    path.write_text("not a graph")
    with pytest.raises(DataError, match=r"birdnet\.onnx is no BirdNET") as error:
        FusedBirdNet(path, n_threads=1)
    assert "\n" not in str(error.value)


def test_it_is_asked_where_there_is_no_gpu(tmp_path: Path) -> None:
    """A GPU computes torch's; without the package so does a CPU."""
    path = write_graph(tmp_path)
    assert fused_teacher(path, torch.device("cuda")) is None
    assert isinstance(fused_teacher(path, torch.device("cpu")), FusedBirdNet)
