"""A training travels in small files and goes on elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.generator.test_training import training, weights  # noqa: E402
from tests.trainer.generator.tiny import lessons  # noqa: E402
from trainer.data.recordings import DataError  # noqa: E402
from trainer.generator import shards  # noqa: E402
from trainer.generator.training import (  # noqa: E402
    Progress,
    keep_average,
    load_checkpoint,
    save_checkpoint,
    take_kept,
    train,
)


def test_a_training_goes_on_from_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Average to fp16's precision, weights to bfloat16's; no file above the limit."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 40_000)
    given = lessons(tmp_path)
    one = training(given, tmp_path / "run")
    end = train(one, Progress())
    files = shards.split(tmp_path / "run", tmp_path / "shards")
    assert len([f for f in files if f.name.startswith("average")]) > 1
    assert max(f.stat().st_size for f in files) < 150_000

    shards.join(tmp_path / "shards", tmp_path / "elsewhere")
    again = training(given, tmp_path / "elsewhere")
    assert load_checkpoint(again).images_seen == end.images_seen
    np.testing.assert_allclose(weights(again.average), weights(one.average), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(weights(again.generator), weights(one.generator), rtol=8e-3)
    assert again.metrics.read_text() == one.metrics.read_text()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Neither a folder without a checkpoint nor one without shards."""
    with pytest.raises(DataError, match=r"holds no checkpoint\.pt"):
        shards.split(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no state\.pt"):
        shards.join(tmp_path, tmp_path / "out")


def test_what_did_not_come_back_whole_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard of several that is missing, or broken off."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 40_000)
    one = training(lessons(tmp_path), tmp_path / "run")
    save_checkpoint(one, Progress())
    shards.split(tmp_path / "run", tmp_path / "shards")
    lost = tmp_path / "shards" / "average-1.pt"
    lost.write_bytes(lost.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"average-1\.pt is damaged: fetch it again"):
        shards.join(tmp_path / "shards", tmp_path / "elsewhere")
    lost.unlink()
    with pytest.raises(DataError, match="lacks some of its shards: fetch them again"):
        shards.join(tmp_path / "shards", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_kept_average_comes_back(tmp_path: Path) -> None:
    """As fp16 has it; a file of something else is refused in words."""
    one = training(lessons(tmp_path), tmp_path / "run")
    train(one, Progress())
    kept = keep_average(one, Progress(images_seen=48))
    other = training(one.lessons, tmp_path / "other")
    take_kept(other.average, kept)
    np.testing.assert_allclose(weights(other.average), weights(one.average), rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="holds no average of this network"):
        take_kept(other.average, one.metrics)
