"""What strangers read of a soaked station, held against what was played and done to it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.soak_sound import Call
from bench.soak_station import BLOCK_S
from tests.faults.readers import ask, integrity

WARM_UP_S = 6 * 3_600.0
"""Of a life, left out of its memory's slope"""
NEAR_S = 6.0
"""A window of 3 s that touches a call of 3 s begins that near, or nearer"""
IN_FLIGHT_S = 40.0
"""What was heard so long before a kill may not have been committed"""
AFTER_S = 12.0
HOP_S = 1.5
SETTLED_S = 120.0
"""After a fault, before delays count again"""
TOUCHES_SOUND = {"killed", "stopped", "died", "microphone pulled", "microphone dead", "clock set"}
ENDS_LIFE = {"killed", "stopped", "died"}
NO_CLIP = {*ENDS_LIFE, "disk full", "microphone pulled", "clock set"}
COVERAGE_ERROR_S = 1.0
"""By which a sum may be off: simulated time stands still within a block"""
DAY_S = 86_400.0


@dataclass(slots=True)
class Fault:
    """Something that was done, in simulated seconds."""

    kind: str
    began_s: float
    ended_s: float | None = None
    step_s: float = 0.0
    """By which the clock was set"""


@dataclass(slots=True)
class Life:
    """A process, in simulated seconds."""

    began_s: float
    ready_at_s: float
    ready_s: float | None
    """Real seconds until its loops ran; None where it was killed before"""
    ended_s: float = 0.0
    asked_to_end_s: float | None = None
    how: str = ""
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process held."""

    at_s: float
    life: int
    resident_mb: float
    n_open: int
    n_threads: int


@dataclass(frozen=True, slots=True)
class Played:
    """What was played and done."""

    began_at: float
    calls: Sequence[Call]
    played_at: Sequence[float]
    wall_offsets: Sequence[tuple[float, float]]
    faults: Sequence[Fault]
    lives: Sequence[Life]
    samples: Sequence[Sample]
    committed: set[str]

    @property
    def ended_s(self) -> float:
        """Return when the last life ended."""
        return self.lives[-1].ended_s


class Places:
    """Turns the wall clock's instants, told in the station's order, into simulated seconds.

    A clock that was set back tells some instants twice: their order says which is meant.
    """

    def __init__(self, played: Played) -> None:
        starts = [*played.wall_offsets, (played.ended_s + 60.0, 0.0)]
        self._spans = [
            (begin, end, played.began_at + offset) for (begin, offset), (end, _) in pairwise(starts)
        ]
        self._last_s = 0.0

    def place(self, at_us: int, from_s: float | None = None) -> float | None:
        """Return the simulated second of an instant; None where there was no such instant.

        Args:
            at_us: the instant, by the wall clock.
            from_s: if it may be this second or later, it is: where what came before ended.
        """
        last_s, found = self._last_s - 2 * NEAR_S, []
        for begin, end, zero in self._spans:
            second = at_us / 1e6 - zero
            if begin - NEAR_S <= second <= end + NEAR_S and second >= last_s:
                found.append(second)
        if not found:
            return None
        later = (s for s in found if from_s is None or s >= from_s - COVERAGE_ERROR_S)
        second = next(later, found[0])
        self._last_s = max(self._last_s, second)
        return second


def look_at(played: Played, state: Path, arrivals: Path) -> dict[str, Any]:
    """Return what was found; `failures` says in words what should not be."""
    failures: list[str] = []
    checks: Mapping[str, Callable[[], dict[str, Any]]] = {
        "lives": lambda: lives(played),
        "memory": lambda: memory(played),
        "coverage": lambda: coverage(played, state, failures),
        "calls": lambda: calls(played, state, failures),
        "log": lambda: log(played, state, failures),
        "clips": lambda: clips(played, state, failures),
        "delay": lambda: delays(played, state, arrivals),
    }
    found: dict[str, Any] = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:  # noqa: BLE001 - what the others see is not to be lost
            traceback.print_exc()
            failures.append(f"{name} could not be looked at: {error!r}")
    return {**found, "failures": failures}


def lives(played: Played) -> dict[str, Any]:
    """Return how processes began and ended."""
    ready = sorted(life.ready_s for life in played.lives if life.ready_s is not None)
    return {
        "n": len(played.lives),
        "ended": dict(Counter(life.how for life in played.lives)),
        "ready_median_s": round(ready[len(ready) // 2], 2),
        "ready_longest_s": round(ready[-1], 2),
    }


def memory(played: Played) -> dict[str, Any]:
    """Return what the longest life held over time."""
    longest = max(range(len(played.lives)), key=lambda n: _length(played.lives[n]))
    life = played.lives[longest]
    warm_s = life.began_s + min(WARM_UP_S, _length(life) / 4)
    warm = [s for s in played.samples if s.life == longest and s.at_s >= warm_s]
    if len(warm) < 4:
        return {"n_samples": len(warm)}
    half = len(warm) // 2
    return {
        "days": round((warm[-1].at_s - warm[0].at_s) / DAY_S, 2),
        "n_samples": len(warm),
        "mb_after_warm_up": round(warm[0].resident_mb, 1),
        "mb_last": round(warm[-1].resident_mb, 1),
        "mb_most": round(max(s.resident_mb for s in warm), 1),
        "mb_a_day": round(_slope(warm), 3),
        "mb_a_day_first_half": round(_slope(warm[:half]), 3),
        "mb_a_day_second_half": round(_slope(warm[half:]), 3),
        "open_files": _range([s.n_open for s in warm]),
        "threads": _range([s.n_threads for s in warm]),
    }


def _length(life: Life) -> float:
    return life.ended_s - life.began_s


def _slope(samples: Sequence[Sample]) -> float:
    days = [s.at_s / DAY_S for s in samples]
    return float(np.polyfit(days, [s.resident_mb for s in samples], 1)[0])


def _range(values: Sequence[int]) -> dict[str, int]:
    return {
        "first": values[0],
        "last": values[-1],
        "least": min(values),
        "most": max(values),
    }


def coverage(played: Played, state: Path, failures: list[str]) -> dict[str, Any]:
    """Hold the ledger's sums against the time that passed and what was done to the sound."""
    rows = ask(state / "station.db", "SELECT * FROM coverage ORDER BY sequence")
    times = [row for row in rows if row["state"] != "clock_step"]
    told: dict[str, float] = defaultdict(float)
    for row in times:
        told[row["cause"] or row["state"]] += row["duration_s"]
    told_s, (least_s, most_s) = sum(told.values()), _lived(played)
    if not least_s - COVERAGE_ERROR_S <= told_s <= most_s + COVERAGE_ERROR_S:
        failures.append(f"the ledger tells {told_s:.1f} s of {least_s:.1f} to {most_s:.1f} s")
    if any(row["duration_s"] < 0 for row in times):
        failures.append("the ledger has a negative interval")
    n_steps, n_set = len(rows) - len(times), len(played.wall_offsets) - 1
    if n_steps != n_set:
        failures.append(f"the ledger tells {n_steps} steps of the clock; it was set {n_set} times")
    in_log = ask(state / "log.db", "SELECT * FROM coverage")
    n_different = len({_interval(r) for r in rows} ^ {_interval(r) for r in in_log})
    if n_different:
        failures.append(f"{n_different} intervals differ between station.db and the log")
    return {
        "intervals": len(rows),
        "passed_s": [round(least_s, 1), round(most_s, 1)],
        "told_s": round(told_s, 1),
        "overlapping_s": round(_overlapping(played, times, failures), 1),
        "told_by_cause_s": {cause: round(s, 1) for cause, s in sorted(told.items())},
        "made_by_cause_s": _made(played),
        "clock_steps": n_steps,
        "command_adds_up": _command_adds_up(played, state, failures),
    }


def _lived(played: Played) -> tuple[float, float]:
    """Return between what the ledger's sum must be: the first start and the last stop are vague."""
    first, last = played.lives[0], played.lives[-1]
    asked_s = last.ended_s if last.asked_to_end_s is None else last.asked_to_end_s
    return asked_s - first.ready_at_s, last.ended_s - first.began_s


def _interval(row: dict[str, Any]) -> tuple[str, int, str, float]:
    return row["run_id"], row["started_at"], row["state"], round(row["duration_s"], 3)


def _overlapping(played: Played, rows: Sequence[dict[str, Any]], failures: list[str]) -> float:
    """Return the seconds that two intervals claim."""
    places, ended_s, overlap_s = Places(played), 0.0, 0.0
    for row in rows:
        began_s = places.place(row["started_at"], from_s=ended_s)
        if began_s is None:
            failures.append(f"an interval that began at no instant there was: {row}")
            continue
        overlap_s += max(0.0, ended_s - began_s)
        ended_s = max(ended_s, began_s + row["duration_s"])
    if overlap_s > COVERAGE_ERROR_S * len(played.lives):
        failures.append(f"intervals overlap by {overlap_s:.1f} s")
    return overlap_s


def _made(played: Played) -> dict[str, float]:
    """Return the seconds for which sound was withheld, by the ledger's words."""
    made: dict[str, float] = defaultdict(float)
    for before, life in pairwise(played.lives):
        made["stopped"] += life.began_s - before.ended_s
    for life in played.lives:
        made["starting, of which the process's own start is told as stopped"] += (
            life.ready_at_s - life.began_s
        )
    for fault in played.faults:
        lasted_s = (fault.ended_s or played.ended_s) - fault.began_s
        if fault.kind == "microphone pulled":
            made["microphone"] += lasted_s
        if fault.kind == "microphone dead":
            made["dead, after 60 s of zeros"] += max(0.0, lasted_s - 60)
    return {cause: round(s, 1) for cause, s in sorted(made.items())}


def _command_adds_up(played: Played, state: Path, failures: list[str]) -> bool:
    """Return whether `fieldstation coverage` accounts for each second asked for, once."""
    offsets = [offset for _, offset in played.wall_offsets]
    since = played.began_at + min(offsets) - 60
    until = played.began_at + played.ended_s + max(offsets) + 60
    command = [sys.executable, "-m", "fieldstation", "coverage", "--state", str(state)]
    command += ["--since", _instant(since), "--until", _instant(until), "--format", "jsonl"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in said.splitlines()]
    seconds = [row["seconds"] for row in rows if row["state"] != "clock_step"]
    wanted = round(until) - round(since)
    if min(seconds) < 0 or abs(sum(seconds) - wanted) > 0.01 * len(rows):
        failures.append(f"`coverage` tells {sum(seconds):.2f} s of {wanted} s")
        return False
    return True


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(round(seconds)))


def calls(played: Played, state: Path, failures: list[str]) -> dict[str, Any]:
    """Hold the log's rows against the calls that were played."""
    rows = ask(state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    heard, of_part, strange = _heard(played, rows)
    undisturbed = [call for call in played.calls if is_undisturbed(played, call)]
    lost = _lost_spans(played, state)
    missing = [call for call in undisturbed if not heard[call.number]]
    unexplained = [call for call in missing if not _cause(lost, call)]
    double = [call for call in undisturbed if heard[call.number] > 1]
    for what, those in (
        ("undisturbed, and neither in the log nor in the ledger", unexplained),
        ("undisturbed, and twice in the log", double),
        ("in the log, and never played", strange),
    ):
        if those:
            failures.append(f"{len(those)} calls {what}: {those[:5]}")
    return {
        "played": len(played.calls),
        "undisturbed": len(undisturbed),
        "undisturbed_in_the_log_once": sum(heard[call.number] == 1 for call in undisturbed),
        "undisturbed_and_told_as_lost": dict(Counter(_cause(lost, call) for call in missing)),
        "disturbed_in_the_log": sum(bool(n) for n in heard.values())
        - sum(bool(heard[call.number]) for call in undisturbed),
        "rows_that_name_another_species_in_a_call": of_part,
    }


def _heard(
    played: Played, rows: Iterable[dict[str, Any]]
) -> tuple[Counter[int], int, list[dict[str, Any]]]:
    """Return how often each call is in the log, and which rows are of none."""
    places, heard, of_part, strange = Places(played), Counter[int](), 0, []
    begins = np.array([call.began_s for call in played.calls])
    for row in rows:
        second = places.place(row["started_at"])
        nearest = None
        if second is not None:
            nearest = played.calls[int(np.argmin(abs(begins - second)))]
        if nearest is None or abs(nearest.began_s - (second or 0.0)) > NEAR_S:
            strange.append(row)
        elif nearest.species == row["scientific_name"]:
            heard[nearest.number] += 1
        else:
            of_part += 1
    return heard, of_part, strange


def is_undisturbed(played: Played, call: Call) -> bool:
    """Return whether nothing that was done to the sound was near a call."""
    if not call.is_whole or call.ends_s > played.ended_s - IN_FLIGHT_S:
        return False
    if call.began_s < played.lives[0].ready_at_s + NEAR_S:
        return False
    return not any(
        call.ends_s > fault.began_s - (IN_FLIGHT_S if fault.kind in ENDS_LIFE else AFTER_S)
        and call.began_s < _sound_is_back(played, fault) + AFTER_S
        for fault in played.faults
        if fault.kind in TOUCHES_SOUND
    )


def _sound_is_back(played: Played, fault: Fault) -> float:
    """Return when a fault ended; one that ended a process ends with the last start in it."""
    ended_s = played.ended_s if fault.ended_s is None else fault.ended_s
    if fault.kind not in ENDS_LIFE:
        return ended_s
    starts = [life.ready_at_s for life in played.lives if fault.began_s < life.began_s <= ended_s]
    return max(starts, default=ended_s)


def _lost_spans(played: Played, state: Path) -> list[tuple[float, float, str]]:
    """Return what the ledger tells as lost, in simulated seconds."""
    places = Places(played)
    query = "SELECT * FROM coverage WHERE state != 'clock_step' ORDER BY sequence"
    spans = []
    for row in ask(state / "station.db", query):
        began_s = places.place(row["started_at"])
        if began_s is not None and row["state"] == "lost":
            spans.append((began_s, began_s + row["duration_s"], str(row["cause"])))
    return spans


def _cause(lost: Iterable[tuple[float, float, str]], call: Call) -> str:
    """Return why a call was not heard, by the ledger; empty where it tells nothing."""
    near = (
        cause
        for began_s, ended_s, cause in lost
        if began_s < call.ends_s + NEAR_S and ended_s > call.began_s - NEAR_S
    )
    return next(near, "")


def log(played: Played, state: Path, failures: list[str]) -> dict[str, Any]:
    """Hold the log against what was committed, and its totals against its rows."""
    in_log = {row["event_id"] for row in ask(state / "log.db", "SELECT event_id FROM detections")}
    daily = ask(state / "log.db", "SELECT total(n) AS n FROM daily")[0]["n"]
    quarantined = ask(state / "log.db", "SELECT count(*) AS n FROM quarantine")[0]["n"]
    waiting = ask(
        state / "station.db", "SELECT count(*) AS n FROM outbox WHERE confirmed_at IS NULL"
    )[0]["n"]
    states = {name: integrity(state / name) for name in ("station.db", "log.db")}
    promised: Sequence[tuple[str, object, object]] = (
        ("committed events missing in the log", len(played.committed - in_log), 0),
        ("events in the log that were never committed", len(in_log - played.committed), 0),
        ("rows counted by day, less rows", int(daily) - len(in_log), 0),
        ("messages in quarantine", quarantined, 0),
        ("messages without a receipt", waiting, 0),
        ("what SQLite says of the files", set(states.values()), {"ok"}),
    )
    failures += [f"{what}: {seen}" for what, seen, wanted in promised if seen != wanted]
    return {
        "committed": len(played.committed),
        "rows": len(in_log),
        "quarantined": quarantined,
        "without_a_receipt": waiting,
        "integrity": states,
        "station_db_mb": round((state / "station.db").stat().st_size / 1e6, 2),
        "log_db_mb": round((state / "log.db").stat().st_size / 1e6, 2),
    }


def clips(played: Played, state: Path, failures: list[str]) -> dict[str, int]:
    """Return the states of clips; rows and files must agree, and a missing one have its fault."""
    query = "SELECT started_at, clip_state, clip_file FROM events ORDER BY rowid"
    rows = ask(state / "station.db", query)
    told = {row["clip_file"] for row in rows if row["clip_state"] == "written"}
    folder = state / "clips"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    if told != there:
        failures.append(f"{len(told ^ there)} clips are only told or only there")
    places = Places(played)
    seconds = [(row["clip_state"], places.place(row["started_at"])) for row in rows]
    missing = [s for told_as, s in seconds if told_as == "missing" and not _may_lack(played, s)]
    if missing:
        failures.append(
            f"{len(missing)} clips are missing without a fault, at {missing[:5]} s; "
            f"of all that are, the station said {_why_missing(state.parent / 'station.log')}"
        )
    return dict(Counter(row["clip_state"] for row in rows))


def _why_missing(journal: Path) -> dict[str, int]:
    """Return what a station said of clips that it could not keep, and how often."""
    said = re.findall(r"no clip of [^:]+: (.+)", journal.read_text(errors="replace"))
    return dict(Counter(said))


def _may_lack(played: Played, second: float | None) -> bool:
    """Return whether something was done at that time that a clip does not outlive."""
    return second is not None and any(
        fault.began_s - IN_FLIGHT_S < second < (fault.ended_s or fault.began_s) + AFTER_S
        for fault in played.faults
        if fault.kind in NO_CLIP
    )


def delays(played: Played, state: Path, arrivals: Path) -> dict[str, Any]:
    """Return how long after the sound that closed an event it was told, while nothing was hurt."""
    first: dict[str, float] = {}
    for line in arrivals.read_text(errors="replace").splitlines():
        at, _, payload = line.partition(" ")
        if payload.endswith("}"):
            first.setdefault(json.loads(payload)["event_id"], float(at))
    places = Places(played)
    told_s, logged_s = [], []
    for row in ask(state / "log.db", "SELECT * FROM detections ORDER BY sequence"):
        closed_s = places.place(row["ended_at"])
        if closed_s is None or not _is_quiet(played.faults, closed_s):
            continue
        logged_s.append((row["received_at"] - row["ended_at"]) / 1e6 - HOP_S)
        block = round((closed_s + HOP_S) / BLOCK_S)
        if row["event_id"] in first and block < len(played.played_at):
            told_s.append(first[row["event_id"]] - played.played_at[block])
    return {
        "to_subscriber_real_ms": _percentiles(told_s, 1e3),
        "to_row_simulated_s": _percentiles(logged_s, 1.0),
    }


def _is_quiet(faults: Iterable[Fault], second: float) -> bool:
    return not any(
        f.began_s - NEAR_S < second < (f.ended_s or f.began_s) + SETTLED_S for f in faults
    )


def _percentiles(values: Sequence[float], scale: float) -> dict[str, float]:
    if not values:
        return {"n": 0}
    shown: Callable[[float], float] = lambda value: round(value * scale, 1)  # noqa: E731
    p50, p95 = np.percentile(values, [50, 95])
    return {"n": len(values), "p50": shown(p50), "p95": shown(p95), "max": shown(max(values))}
