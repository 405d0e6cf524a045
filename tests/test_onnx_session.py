"""What opening a graph does besides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fieldstation.bundle import find_bundle

OPEN = """
import sys
from pathlib import Path
from fieldstation.clips.speech import SpeechGate
from fieldstation.onnx_session import open_session
open_session(Path(sys.argv[1]) / "encoder.onnx", "cpu", 1)
SpeechGate()
"""
NO_TELEMETRY = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
"""With one of them set, onnxruntime tells nobody anything by itself"""


def test_the_runtime_keeps_no_record_of_its_user(tmp_path: Path) -> None:
    """From 1.29 on it gives the machine an id and tells its maker what is run, unless told not."""
    inherited = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY}
    command = [sys.executable, "-c", OPEN, str(find_bundle("garden"))]
    homeless = {name: value for name, value in inherited.items() if not name.startswith("XDG_")}
    subprocess.run(command, env={**homeless, "HOME": str(tmp_path)}, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
