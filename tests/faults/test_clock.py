"""A wall clock that is set by hours both ways, by summer time, and from 1970 to now.

The station's own clock is bent (bent.c): nobody else's is touched. The monotonic one stays true.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from tests.faults.conftest import Counts, MakeStation
from tests.faults.disk import Bent
from tests.faults.live import LIVE
from tests.faults.played import Player, wait_for
from tests.faults.readers import ask, integrity, needs_strangers, subscriber
from tests.faults.station import Station

pytestmark = [
    needs_strangers,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
HOUR_S = 3_600
SUMMER_TIME = 1_774_746_000.0
"""2026-03-29 01:00 UTC, when Berlin goes from 02:00 to 03:00"""
SETTINGS = "[mqtt]\nport = 0\n"


def n_logged(station: Station) -> int:
    """Return how many detections a stranger finds in the log."""
    return int(ask(station.state / "log.db", "SELECT count(*) AS n FROM detections")[0]["n"])


def species_logged(station: Station) -> list[str]:
    """Return who called, in the station's order; a call that a clock cut in two is one."""
    rows = ask(station.state / "log.db", "SELECT scientific_name FROM detections ORDER BY sequence")
    return [name for name, _ in groupby(row["scientific_name"] for row in rows)]


def hear_more(station: Station, n: int = 2) -> None:
    """Wait until more calls are in the log."""
    wanted = n_logged(station) + n
    wait_for(lambda: n_logged(station) >= wanted)


def check_ledger(station: Station) -> dict[str, float]:
    """See that no interval is negative and that none of a run overlaps another by the clock it
    had; return the sums by cause."""
    rows = ask(station.state / "station.db", "SELECT * FROM coverage ORDER BY sequence")
    times = [row for row in rows if row["state"] != "clock_step"]
    assert all(row["duration_s"] >= 0 for row in times)
    keys = [(row["run_id"], row["started_at"], row["state"]) for row in rows]
    assert len(keys) == len(set(keys))
    sums: dict[str, float] = {}
    for row in times:
        cause = row["cause"] or row["state"]
        sums[cause] = sums.get(cause, 0.0) + row["duration_s"]
    return sums


def check_coverage_adds_up(station: Station, since_s: float, until_s: float) -> None:
    """See that `fieldstation coverage` accounts for every second asked for, once."""
    command = [
        *(sys.executable, "-m", "fieldstation", "coverage", "--state", str(station.state)),
        *("--since", instant(since_s), "--until", instant(until_s), "--format", "jsonl"),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in said.splitlines()]
    times = [row["seconds"] for row in rows if row["state"] != "clock_step"]
    assert min(times) >= 0, rows
    assert sum(times) == pytest.approx(round(until_s) - round(since_s), abs=0.01), rows


def instant(seconds: float) -> str:
    """Return seconds since 1970 as the command line takes them."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(round(seconds)))


def test_a_clock_that_is_set_changes_no_order_and_no_duration(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """From 1970 to now, on three hours, back six, and over summer time."""
    bent = Bent(tmp_path)
    bent.set("wall_offset_us", -round((time.time() - 12) * 1e6))
    station = make_station(settings=SETTINGS, environment=bent.environment, **LIVE)
    station.start()
    began = time.monotonic()
    player.play_to(station.take_pipe())
    offsets = [0.0, 3 * HOUR_S, -3 * HOUR_S, SUMMER_TIME - time.time() - 2]
    offsets += [n * HOUR_S * (-1) ** n for n in range(1, 40)] if long else []
    with subscriber(tmp_path / "seen.jsonl", station.reader()) as heard:
        hear_more(station)
        for offset_s in offsets:
            bent.set("wall_offset_us", round(offset_s * 1e6))
            hear_more(station)
        n, lived_s = len(player.calls), time.monotonic() - began
        wait_for(lambda: len(species_logged(station)) >= n)  # what is on its way ends with it
        assert station.stop() == 0, station.said()
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    assert all(row["ended_at"] > row["started_at"] for row in rows)
    species = species_logged(station)
    assert species[:n] == [call.species for call in player.calls[:n]], "missing or out of order"
    assert len(rows) - len(species) <= len(offsets), "double, where no clock was set"
    told = [d["sequence"] for d in heard.detections()]
    assert all(later > earlier for earlier, later in pairwise(told))
    sums = check_ledger(station)
    assert lived_s - 1 < sums["heard"] + sums.get("starting", 0.0) < lived_s + 10
    now = time.time()
    for since, until in ((0, now + 1), (0, 100), (now - 4 * HOUR_S, now + 4 * HOUR_S))[
        : 1 + 2 * long
    ]:
        check_coverage_adds_up(station, since, until)
    steps = ask(station.state / "station.db", "SELECT * FROM coverage WHERE state = 'clock_step'")
    assert len(steps) == len(offsets)
    assert integrity(station.state / "log.db") == "ok"
    counts(
        made=f"the clock set {len(offsets)} times: from 1970, by hours both ways, over summer time",
        promised="every call once and in order, no negative or doubled interval, sums add up",
        calls_played=len(species),
        rows_in_the_log=len(rows),
        calls_cut_in_two_by_a_step=len(rows) - len(species),
        told_as_heard_s=sums["heard"],
        really_s=lived_s,
        steps_told=len(steps),
    )


def test_a_machine_that_boots_before_its_last_run_doubles_nothing(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long_only: None
) -> None:
    """Killed, it starts in 1970, then its clock is set: the time between is known as stopped."""
    bent = Bent(tmp_path)
    station = make_station(settings=SETTINGS, environment=bent.environment, **LIVE)
    station.start()
    player.play_to(station.take_pipe())
    hear_more(station)
    station.kill()
    killed = time.time()
    bent.set("wall_offset_us", -round((time.time() - 12) * 1e6))
    station.start()
    started = time.time()
    player.play_to(station.take_pipe())
    hear_more(station)
    bent.set("wall_offset_us", 0)
    hear_more(station)
    assert station.stop() == 0, station.said()
    sums = check_ledger(station)
    assert started - killed - 5 < sums["stopped"] < started - killed + 6
    check_coverage_adds_up(station, killed - 60, time.time())
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    assert len({row["event_id"] for row in rows}) == len(rows)
    counts(
        made="SIGKILL, then a start in 1970, then the clock is set",
        promised="what was stopped is known to the heartbeat's 5 s; nothing doubled",
        really_stopped_s=started - killed,
        told_as_stopped_s=sums["stopped"],
        in_the_log=len(rows),
    )
