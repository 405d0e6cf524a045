"""Conditions that cannot be meant, and what stands in two databases, from the command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fieldstation.cli import main
from fieldstation.clock import US_PER_S, SystemClock
from fieldstation.mqtt.messages import detection_message
from fieldstation.state import State
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.commands.conftest import Run
from tests.store.examples import DAWN, MINUTE, detection, event, interval


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


def test_what_is_logged_and_not_yet_confirmed_is_shown_once(here: Run, state: Path) -> None:
    """However much that is: a station may trust a hub that is away, and keep a log beside it."""
    state.mkdir()
    told = [
        detection(n, started_at=DAWN + n * MINUTE, ended_at=DAWN + n * MINUTE, station_key="0" * 16)
        for n in range(1, 603)
    ]
    log, station = LogStore(str(state / "log.db")), StationStore(state / "station.db")
    log.record(told[:601], DAWN)
    with station.transaction() as outbox:
        for n, one in enumerate(told, 1):
            outbox.record_event(event(n), lambda _, one=one: detection_message(one))
    log.close()
    station.close()
    asked = here("detections", "--format", "jsonl").stdout.splitlines()
    assert Counter(json.loads(line)["state"] for line in asked) == {"logged": 601, "waiting": 1}
    assert json.loads(asked[0])["state"] == "waiting"


def test_coverage_of_long_ago_stands_in_the_log(here: Run, state: Path) -> None:
    """station.db forgets it after a week: what was heard in spring is not unrecorded in summer."""
    state.mkdir()
    key, now = State(state).key(), SystemClock().wall()
    long_ago, lately = now - 30 * 86_400 * US_PER_S, now - 3_600 * US_PER_S
    log, station = LogStore(str(state / "log.db")), StationStore(state / "station.db")
    log.record_coverage("hedge", key, [interval(long_ago, 3_600), interval(lately, 600)])
    log.record_coverage("wood", "1" * 16, [interval(long_ago, 7_200)])
    station.record_intervals([interval(lately, 900)])
    log.close()
    station.close()
    asked = here("coverage", "--since", "40d", "--format", "jsonl").stdout.splitlines()
    heard, unrecorded = map(json.loads, asked)
    assert (heard["state"], heard["seconds"], heard["n"]) == ("heard", 4_500, 2)
    assert unrecorded["state"] == "unrecorded"
    (state / "log.db").unlink()
    asked = here("coverage", "--since", "40d", "--format", "jsonl").stdout.splitlines()
    assert json.loads(asked[0])["seconds"] == 900
