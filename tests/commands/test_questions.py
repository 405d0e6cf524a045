"""Conditions that cannot be meant, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldstation.cli import main


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (["detections", "--limit", "0"], "--limit is 0"),
        (["detections", "--limit", "99999999999999999999"], "--limit is 99999999999999999999"),
        (["detections", "--min-probability", "nan"], "--min-probability is nan"),
        (["detections", "--since", "now"], "'now' names no time"),
        (["species", "--since", "today", "--until", "yesterday"], "is not after --since"),
        (["coverage", "--since", "9999-12-31"], "--since 9999-12-31 is not in the past"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(
    question: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line that names it."""
    assert main([*question, "--state", str(tmp_path)]) == 2
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert refusal.startswith(f"fieldstation {question[0]}: ")
    assert said in refusal
