"""Log-mels computed once are those of the windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.data.test_windows import audio_set  # noqa: E402
from tests.trainer.recordings import RATE, tone  # noqa: E402
from trainer.encoder.mel import LogMel, MelConfig  # noqa: E402
from trainer.encoder.mels import SILENCE, load_mels  # noqa: E402

CONFIG = MelConfig(n_fft=1024, hop_length=256, n_mels=64)


def test_a_cut_is_the_log_mel_of_that_window(tmp_path: Path) -> None:
    """Frames cut from a recording equal those of its window, but for the padded edges."""
    audio = audio_set(tone(1000, 2.0), tone(3000, 6.0))
    mels = load_mels(audio, CONFIG, tmp_path)
    start = 256 * 100
    window = torch.from_numpy(audio.of(1)[start : start + 3 * RATE].copy())[None]
    direct = LogMel(CONFIG)(window)[0].numpy()
    cut = mels.cut(1, 100, direct.shape[1])
    np.testing.assert_allclose(cut[:, 2:-2], direct[:, 2:-2], atol=0.02)


def test_beyond_the_end_stands_silence(tmp_path: Path) -> None:
    """A recording shorter than the cut is followed by silence, not by the next recording."""
    mels = load_mels(audio_set(tone(1000, 1.0), tone(3000, 3.0)), CONFIG, tmp_path)
    n_own = int(mels.starts[1])
    cut = mels.cut(0, 0, 256)
    assert (cut[:, n_own:] == np.float32(SILENCE)).all()
    assert (cut[:, : n_own - 2].max(axis=0) > SILENCE + 5).all()


def test_they_are_computed_once(tmp_path: Path) -> None:
    """A second load reads the file of the first."""
    audio = audio_set(tone(1000, 2.0))
    first = load_mels(audio, CONFIG, tmp_path)
    written = [f.stat().st_mtime_ns for f in tmp_path.iterdir()]
    second = load_mels(audio, CONFIG, tmp_path)
    assert [f.stat().st_mtime_ns for f in tmp_path.iterdir()] == written
    np.testing.assert_array_equal(first.frames, second.frames)
