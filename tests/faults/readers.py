"""Strangers that read what a station wrote and told: the sqlite3 shell and mosquitto_sub."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.played import wait_for

TOOLS = ("mosquitto", "mosquitto_sub", "mosquitto_pub", "sqlite3")
SBIN = ":/usr/sbin:/usr/local/sbin"


def lacking() -> list[str]:
    """Return which of the strangers this machine does not have."""
    return [tool for tool in TOOLS if not shutil.which(tool) and not _in_sbin(tool)]


def _in_sbin(tool: str) -> bool:
    return shutil.which(tool, path=SBIN) is not None


needs_strangers = pytest.mark.skipif(bool(lacking()), reason=f"needs {', '.join(lacking())}")


def ask(database: Path, query: str) -> list[dict[str, Any]]:
    """Return the rows that the sqlite3 shell reads."""
    said = subprocess.run(
        ["sqlite3", "-readonly", "-json", "-cmd", ".timeout 5000", str(database), query],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    rows: list[dict[str, Any]] = json.loads(said or "[]")
    return rows


def count(database: Path, table: str) -> int:
    """Return how many rows a table has."""
    return int(ask(database, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def integrity(database: Path) -> str:
    """Return what SQLite says of the file: `ok`, or what is wrong."""
    return "; ".join(str(row["integrity_check"]) for row in ask(database, "PRAGMA integrity_check"))


class Heard:
    """What mosquitto_sub has printed so far."""

    def __init__(self, lines: Path) -> None:
        self._lines = lines

    def messages(self) -> list[dict[str, Any]]:
        """Return topic and payload of each, in the order they came."""
        return [json.loads(line) for line in self._whole_lines() if line.startswith("{")]

    def detections(self) -> list[dict[str, Any]]:
        """Return the payloads of detections, in the order they came; some may come again."""
        return [m["payload"] for m in self.messages() if m["topic"].endswith("/detection")]

    def n_subscribed(self) -> int:
        """Return how often a broker has taken its subscription."""
        return sum(line.startswith("Subscribed") for line in self._whole_lines())

    def _whole_lines(self) -> list[str]:
        text = self._lines.read_text(errors="replace") if self._lines.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()


@contextmanager
def subscriber(
    lines: Path,
    access: tuple[str, int, str, str],
    topic: str = "fieldstation/#",
) -> Iterator[Heard]:
    """Run mosquitto_sub with a session that a broker keeps, each message a line of a file.

    It has subscribed when this begins: what is told from now on, it hears.

    Args:
        access: host, port, user (empty: none) and password.
    """
    host, port, user, password = access
    who = ["-u", user, "-P", password] if user else []
    where = ["-h", host, "-p", str(port), "-t", topic, "-V", "mqttv5"]
    session = ["-i", "stranger", "-c", "-x", "86400", "-q", "1", "-F", "%J", "-d"]
    # Its topics are JSON, but not the pictures.
    without = ["-T", "fieldstation/+/image/png"]
    heard = Heard(lines)
    before = heard.n_subscribed()
    with lines.open("ab") as output:
        process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", *where, *session, *without, *who],
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: heard.n_subscribed() > before)
        yield heard
    finally:
        process.kill()
        process.wait()
