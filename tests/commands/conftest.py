"""The command line as a user has it: a process of its own, a tone bundle, a state folder."""

from __future__ import annotations

import faulthandler
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fieldstation.bundle import Bundle
from fieldstation.cli import main
from tests.onnx_models import make_tone_bundle, tone

RATE = 48_000
Run = Callable[..., "subprocess.CompletedProcess[str]"]

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") is None,
    reason="mosquitto is not installed",
)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that names 2 kHz a Chaffinch and 4 kHz a Great Tit."""
    return make_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 20 s at 48 kHz with a Chaffinch at 5 s and a Great Tit at 12 s."""
    noise = np.random.default_rng(0).normal(0, 1e-3, 20 * RATE).astype(np.float32)
    for start_s, frequency in ((5, 2_000), (12, 4_000)):
        noise[start_s * RATE : (start_s + 2) * RATE] += tone(frequency, 2, RATE)
    path = tmp_path_factory.mktemp("recordings") / "hedge_20260501_041200.flac"
    soundfile.write(path, noise, RATE)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder that does not exist yet."""
    return tmp_path / "state"


@pytest.fixture
def cli(state: Path) -> Run:
    """Return what runs `fieldstation ARGUMENTS --state …` and waits for its end."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldstation", *map(str, arguments), "--state", str(state)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={**os.environ, "TZ": "UTC"},
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def here(state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `fieldstation ARGUMENTS --state …` in this process, a second sooner.

    For what starts neither threads nor processes: a refusal, a question, a replay.
    """
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr(faulthandler, "enable", lambda *_: None)  # pytest has its own

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments), "--state", str(state)]
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return run
