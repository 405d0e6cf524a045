"""The calls themselves: without a fault, what is played is what strangers read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import Player, match, species_of, wait_for
from tests.faults.readers import ask, integrity, needs_strangers, subscriber
from tests.faults.report import page

pytestmark = needs_strangers


def test_every_call_is_a_row_and_a_message(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """Same species, same order, each once, at the instant it was played."""
    if not long:
        pytest.skip("with --long: the short forms of the faults show it too")
    station = make_station()
    station.start()
    with subscriber(tmp_path / "seen.jsonl", station.reader()) as heard:
        player.play_to(station.take_pipe())
        wait_for(lambda: len(player.calls) >= 60)
        player.leave()
        assert station.wait() == 0, station.said()
        wait_for(lambda: len(heard.detections()) >= len(player.calls))
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    assert [row["scientific_name"] for row in rows] == [call.species for call in player.calls]
    assert [row["event_id"] for row in rows] == [d["event_id"] for d in heard.detections()]
    assert all(
        match(player.calls, row["scientific_name"], row["started_at"] / 1e6) == call
        for row, call in zip(rows, player.calls, strict=True)
    )
    assert integrity(station.state / "log.db") == "ok"
    late_s = max(
        row["started_at"] / 1e6 - call.began_at
        for row, call in zip(rows, player.calls, strict=True)
    )
    counts(
        made="none",
        promised="each call once, in order, at its instant",
        calls_played=len(player.calls),
        in_the_log=len(rows),
        most_off_its_instant_s=late_s,
    )


def test_counts_become_rows_of_their_section() -> None:
    """The newest of a command counts; a unit stands behind its number."""
    command = "pytest tests/faults/test_killed.py::test_a"
    entry = {"made": "kill", "promised": "all", "command": f"{command} --long"}
    seen = {"calls": 2_000, "memory_mb": 107.25, "told_per_s": 526.9, "attempts": "9 and 8"}
    lines = [json.dumps({**entry, "seen": {"calls": 1}}), json.dumps({**entry, "seen": seen})]
    short = json.dumps({**entry, "command": command, "seen": {"calls": 3}})
    title, _, *rows = page(lines, [short]).splitlines()
    assert title == "## Killed"
    told = "2,000 calls, memory 107 MB, told 527 a second, attempts 9 and 8"
    assert rows[2:] == [f"| kill | all | {told} | 3 calls | `{command} --long` |"]
    assert "| – | 3 calls |" in page([], [short])


def test_calls_can_be_told_apart() -> None:
    """A round of species."""
    assert len({species_of(n) for n in range(24)}) == 24
    assert species_of(24) == species_of(0)
