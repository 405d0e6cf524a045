"""The soak of `bench/soak.py`, for half an hour of simulated time instead of days."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench import soak
from bench.simulated import SimulatedTime
from bench.soak_checks import Life, Played, _overlapping, is_undisturbed, look_at
from bench.soak_sound import Judge, Tape, choose
from fieldstation.bundle import find_bundle, load_bundle
from fieldstation.demo import RECORDING
from tests.faults.disk import cannot_mount
from tests.faults.readers import needs_strangers

pytestmark = [
    needs_strangers,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
WAITS = """
import select, socket, threading, time
one, other = socket.socketpair()
one.settimeout(1000)
def recv():
    try:
        one.recv(1)
    except TimeoutError:
        pass
for wait in (
    lambda: time.sleep(1000),
    lambda: threading.Event().wait(1000),
    lambda: select.select([], [], [], 1000),
    lambda: select.poll().poll(1_000_000),
    lambda: select.epoll().poll(1000),
    recv,
):
    began = time.monotonic(), time.time()
    wait()
    print(time.monotonic() - began[0], time.time() - began[1])
"""
ALL = tuple(soak.A_DAY)
LASTS_S = 75.0


def harm(state: Path, played: Played) -> None:
    """Take a call out of the log, double another, lose an interval and a clip."""
    first, second = [call for call in played.calls if is_undisturbed(played, call)][:2]
    with sqlite3.connect(state / "log.db") as log:
        columns = [row[1] for row in log.execute("PRAGMA table_info(detections)")]
        kept = ", ".join("'another'" if name == "event_id" else name for name in columns)
        query = "SELECT event_id FROM detections ORDER BY abs(started_at - ?) LIMIT 1"
        lost, doubled = (
            log.execute(query, (round((played.began_at + call.began_s) * 1e6),)).fetchone()
            for call in (first, second)
        )
        log.execute("DELETE FROM detections WHERE event_id = ?", lost)
        log.execute(
            f"INSERT INTO detections SELECT {kept} FROM detections WHERE event_id = ?", doubled
        )
        log.execute("DELETE FROM coverage WHERE rowid = (SELECT max(rowid) FROM coverage)")
    next(path for path in (state / "clips").rglob("*") if path.is_file()).unlink()


def test_a_wait_ends_by_simulated_time(tmp_path: Path) -> None:
    """A thousand seconds each, by both clocks, in less than a second."""
    now, command = SimulatedTime(tmp_path), [sys.executable, "-c", WAITS]
    with subprocess.Popen(command, env=now.environment, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            if is_asleep(process.pid):
                now.advance(10)
            time.sleep(0.001)
        said = process.stdout.read() if process.stdout else b""
    waited = [float(number) for line in said.splitlines() for number in line.split()]
    assert len(waited) == 12
    assert all(1_000 <= seconds < 1_500 for seconds in waited), waited


def is_asleep(pid: int) -> bool:
    """Return whether a process waits; one that only has to wait for a processor does not."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_without_a_time_of_its_own_a_process_has_ours(tmp_path: Path) -> None:
    """The library alone changes nothing."""
    environment = SimulatedTime(tmp_path).environment
    command = [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"]
    environment.pop("FIELDSTATION_SOAK_TIME")
    before = time.time(), time.monotonic()
    said = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    wall, monotonic = map(float, said.split())
    assert before[0] <= wall <= time.time()
    assert before[1] <= monotonic <= time.monotonic()


def test_an_interval_after_a_clock_was_set_back_begins_where_the_last_one_ended() -> None:
    """Its instant was there twice; one that had to begin earlier is seen to overlap."""
    hour = 3_600.0
    played = Played(
        began_at=0.0,
        calls=[],
        faults=[],
        lives=[Life(0.0, 0.0, 1.0, ended_s=9 * hour)],
        samples=[],
        committed=set(),
        wall_offsets=[(0.0, 0.0), (5 * hour, -2 * hour)],
        played_at=[],
    )
    failures: list[str] = []
    rows = [
        {"started_at": 0, "duration_s": 5 * hour},
        {"started_at": round(3 * hour * 1e6), "duration_s": hour},
    ]
    assert _overlapping(played, rows, failures) == 0.0
    rows.append({"started_at": round(3.5 * hour * 1e6), "duration_s": hour})
    assert _overlapping(played, rows, failures) == 0.5 * hour
    assert failures == ["intervals overlap by 1800.0 s"]


@pytest.mark.timeout(900)  # it waits for a busy machine, as a day cannot
@pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount())
def test_a_soaked_station_keeps_its_promises(tmp_path: Path, long: bool) -> None:
    """After a kill, or each fault once: log, ledger and what was played agree."""
    bundle = load_bundle(find_bundle("garden"))
    judge = Judge(bundle, [soak.DEMO_THRESHOLD] * len(bundle.labels))
    tape = Tape(choose(judge, [RECORDING], 1, seed=1), seed=1)
    due = [soak.Due(0.0, kind, LASTS_S) for kind in (ALL if long else ALL[:1])]
    ends_s = 300.0 * len(due)
    with ExitStack() as open_things:
        bench = soak.set_up(open_things, tmp_path, bundle, soak.DEMO_THRESHOLD, tape, ends_s)
        seen = soak.run(bench, due)
        harm(bench.station.state, bench.played())
        complaints = look_at(bench.played(), bench.station.state, bench.arrivals)["failures"]
    assert seen["failures"] == []
    assert sum(seen["faults"].values()) == len(due)
    assert seen["calls"]["undisturbed_in_the_log_once"] > 0
    assert [complaint.partition(":")[0] for complaint in complaints] == [
        "1 intervals differ between station.db and the log",
        "1 calls undisturbed, and neither in the log nor in the ledger",
        "1 calls undisturbed, and twice in the log",
        "committed events missing in the log",
        "events in the log that were never committed",
        "1 clips are only told or only there",
    ]
