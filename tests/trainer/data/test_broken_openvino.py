"""A broken OpenVINO costs a patient teacher its speed, not the training."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'train'")

from tests.trainer.data.test_birdnet_torch import write_graph  # noqa: E402
from tests.trainer.encoder.test_patient import course  # noqa: E402
from trainer.data.birdnet_openvino import FusedBirdNet, OpenVinoError  # noqa: E402
from trainer.encoder.fitting import fused_teacher, versions_of  # noqa: E402

CPU = torch.device("cpu")
LACKS_A_LIBRARY = "raise ImportError('libtbb.so.12: cannot open\\nshared object file')"
LACKS_ITS_READER = """
class Core: ...
class frontend:
    class FrontEndManager:
        def get_available_front_ends(self): return ["ir"]
"""


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (LACKS_A_LIBRARY, "(libtbb.so.12: cannot open shared object file)"),
        ("def Core(", "was never closed"),
        (None, "has no attribute 'frontend'"),
        (LACKS_ITS_READER, "libopenvino_onnx_frontend is missing"),
    ],
)
def test_half_an_installation_is_told_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: str | None,
    said: str,
) -> None:
    """A library, half a file, the whole package or its reader of ONNX is gone: torch teaches."""
    package = tmp_path / "openvino"
    package.mkdir()
    if left is None:
        # An empty folder is a package only where no whole one comes later in the path.
        monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if not has_it(p))])
    else:
        (package / "__init__.py").write_text(left)
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", sys)  # so that what is here comes back afterwards
    del sys.modules["openvino"]
    assert fused_teacher(write_graph(tmp_path), CPU) is None
    told = capsys.readouterr().err
    assert said in told
    assert "going on with torch's teacher" in told
    assert told.count("\n") == 1


def has_it(folder: str) -> bool:
    """Return whether OpenVINO is installed in a folder."""
    return (Path(folder) / "openvino" / "__init__.py").is_file()


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the package openvino")
def test_what_cannot_be_compiled_is_told_as_such(tmp_path: Path) -> None:
    """OpenVINO refuses a number of threads, here, with a text of several lines."""
    with pytest.raises(OpenVinoError, match="INFERENCE_NUM_THREADS") as error:
        FusedBirdNet(write_graph(tmp_path), n_threads=-2)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the package openvino")
def test_a_result_names_openvino_where_it_answered(tmp_path: Path) -> None:
    """That it was imported, and found broken, is no answer."""
    fused = FusedBirdNet(write_graph(tmp_path), n_threads=1)
    by_torch = course()
    assert "openvino" not in versions_of(by_torch)
    answers = replace(by_torch.answers, teacher=fused)
    assert "openvino" in versions_of(replace(by_torch, answers=answers))
