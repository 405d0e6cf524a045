"""docs/exit-codes.md against the command line."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from fieldstation import cli
from fieldstation.cli import COMMANDS, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MEND, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")


def told() -> set[int]:
    return {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", PAGE)}


def test_the_page_has_every_code_and_no_other() -> None:
    """Those of the command line's one place."""
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert told() == {0} | codes


def test_the_page_speaks_of_commands_that_there_are() -> None:
    """A command that was renamed is renamed there too."""
    commands = re.findall(r"(?m)^\| `(\w+)` \|", PAGE)
    assert commands
    assert set(commands) <= set(COMMANDS)


def test_no_command_returns_another_code() -> None:
    """A number in a `return` of a command is one of these."""
    for path in (ROOT / "fieldstation" / "commands").glob("*.py"):
        run = re.search(r"(?s)^def run\(.*?(?=^\S)", path.read_text("utf-8"), re.M)
        returned = re.findall(r"return (?:\d+ if .* else )?(\d+)$", run[0] if run else "", re.M)
        assert {int(code) for code in returned} <= told(), path


def ended(*arguments: str) -> int:
    return main(list(arguments))


def test_the_codes_are_what_commands_end_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done, not to be had just now, to be mended, interrupted: one command each."""
    state = ("--state", str(tmp_path / "state"))
    assert ended("bundle", "list", *state) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"mqtt://127.0.0.1:{probe.getsockname()[1]}"
        assert ended("status", "--broker", nobody, *state) == EXIT_FAILED
    assert ended("status", "--broker", "http://x", *state) == EXIT_MEND
    monkeypatch.setattr(cli, "command_parser", interrupted)
    assert ended("check") == EXIT_INTERRUPTED


def interrupted(_: str) -> None:
    raise KeyboardInterrupt
