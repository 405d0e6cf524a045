"""What a disk refuses is a line, whichever command meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.onnx_models import make_painting_bundle  # noqa: E402
from tests.trainer.generator.tiny import calls, heard, photographs  # noqa: E402
from trainer import evaluate, fit  # noqa: E402
from trainer.data import images  # noqa: E402
from trainer.generator import packing, shards  # noqa: E402


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the commands read, and a file where they are to write."""
    top = tmp_path_factory.mktemp("top")
    photographs(top / "photographs")
    shown = images.load_images(images.read_photographs(top / "photographs"), top / "cache")
    packing.pack("0123456789abcdef", shown, calls(), heard(), top / "packed")
    make_painting_bundle(top / "bundle")
    (top / "run").mkdir()
    state: dict[str, Any] = {"optimiser": {}, "average": {}, "generator": {}}
    torch.save(state, top / "run" / "checkpoint.pt")
    (top / "calls").mkdir()
    (top / "calls" / "recordings.csv").write_text("file,scientific_name\na.wav,Parus major\n")
    (top / "file").write_text("taken")
    return top


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (fit.main, "generator --packed {0}/packed --run {0}/file --cache {0}/cache"),
        (fit.main, "generator --packed {0}/packed --run {0}/new --cache {0}/file"),
        (
            evaluate.main,
            "generator --bundle {0}/bundle --data {0}/calls --images {0}/photographs "
            "--cache {0}/file",
        ),
        (
            packing.main,
            "--encoder {0}/bundle --data {0} --images {0}/photographs --cache {0}/file -o {0}/new",
        ),
        (shards.main, "split {0}/run -o {0}/file"),
        (images.main, "pack --images {0}/photographs -o {0}/file --cache {0}/cache"),
    ],
)
def test_a_file_where_a_folder_is_wanted_is_one_line(
    top: Path, capsys: pytest.CaptureFixture[str], main: Any, arguments: str
) -> None:
    """Exit code 2, which file, and the mend."""
    assert main(arguments.format(top).split()) == 2
    (line,) = [row for row in capsys.readouterr().err.splitlines() if "%|" not in row]
    assert line.endswith(f"{top}/file: File exists: name another place, or make room")
