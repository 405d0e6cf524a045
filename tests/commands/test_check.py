"""`fieldstation check`: each line OK, or what to mend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.generation.golden import load_generator_golden, save_generator_golden
from tests.commands.conftest import Run
from tests.onnx_models import make_painting_bundle


def lines(said: str) -> dict[str, str]:
    return {line.split()[0]: line for line in said.splitlines() if line}


def test_a_new_machine_is_checked_before_the_first_start(cli: Run, tones: Bundle) -> None:
    """Nothing is made by looking; the provider that ran is named."""
    said = lines(cli("check", "--bundle", tones.path).stdout)
    assert " OK  tones" in said["bundle"]
    assert "on CPUExecutionProvider" in said["bundle"]
    assert " OK  none yet" in said["station.db"]
    assert " OK " in said["disk"]


def test_what_is_wrong_is_named_and_the_exit_code_says_so(
    cli: Run, tones: Bundle, tmp_path: Path, state: Path
) -> None:
    """A broker that does not answer, a log that is none, a bundle that is missing."""
    state.mkdir()
    (state / "log.db").write_bytes(b"this is no database" * 100)
    settings = tmp_path / "s.toml"
    settings.write_text('[mqtt]\nurl = "mqtt://127.0.0.1:9"\n[model]\nbundle = "none"\n')
    ended = cli("check", "--config", settings)
    said = lines(ended.stdout)
    assert ended.returncode == 1
    assert "MEND" in said["broker"]
    assert "127.0.0.1:9" in said["broker"]
    assert "MEND" in said["log"]
    assert "MEND" in said["bundle"]
    assert "Traceback" not in ended.stderr


def test_a_threshold_for_a_bird_that_the_bundle_does_not_know_is_told(
    cli: Run, tones: Bundle, tmp_path: Path
) -> None:
    """`run` would refuse it, and `check` is what people ask before."""
    settings = tmp_path / "s.toml"
    settings.write_text('[model]\nthresholds = { "Dodo" = 0.5 }\n')
    said = lines(cli("check", "--bundle", tones.path, "--config", settings).stdout)
    assert "MEND" in said["bundle"]
    assert "'Dodo'" in said["bundle"]


def test_the_golden_picture_is_painted_where_pictures_are(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another than it must be is told before a station shows such; not where others paint."""
    paints = make_painting_bundle(tmp_path / "paints")
    said = lines(cli("check", "--bundle", paints.path).stdout)
    assert " OK  none yet" in said["pictures"]
    assert said["pictures"].endswith("; golden picture as it must be on CPUExecutionProvider")
    golden = load_generator_golden(paints)
    save_generator_golden(paints.path, replace(golden, picture=255 - golden.picture))
    said = lines(cli("check", "--bundle", paints.path).stdout)
    assert "MEND" in said["pictures"]
    assert "the golden picture comes out" in said["pictures"]
    monkeypatch.setenv("FIELDSTATION_GENERATION_WORKER", "false")
    assert " OK " in lines(cli("check", "--bundle", paints.path).stdout)["pictures"]


def test_the_runtime_that_painted_the_golden_picture_is_named(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch where the settings ask for it."""
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    monkeypatch.setenv("FIELDSTATION_GENERATION_RUNTIME", "torch")
    paints = make_painting_bundle(tmp_path / "paints")
    said = lines(here("check", "--bundle", paints.path).stdout)
    ran = "torch-cuda" if torch.cuda.is_available() else "torch-cpu"
    assert said["pictures"].endswith(f" on {ran}")


def test_a_damaged_file_is_shown_until_somebody_has_seen_it(
    cli: Run, tones: Bundle, state: Path
) -> None:
    """Also after the station that restored it has ended."""
    state.mkdir()
    aside = state / "station.db.damaged-20260501T041200Z"
    aside.write_bytes(b"")
    ended = cli("check", "--bundle", tones.path)
    assert ended.returncode == 1
    assert aside.name in ended.stdout
    aside.unlink()
    assert "MEND" not in lines(cli("check", "--bundle", tones.path).stdout)["put"]
