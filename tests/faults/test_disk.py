"""Disks that are full, forbidden, locked, slow, given up; databases removed, damaged, torn.

The station hears live (`live.py`), so that what it does not take in time is lost.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.conftest import Counts, MakeStation
from tests.faults.disk import Bent, Disk, cannot_mount, forbidden, locked
from tests.faults.live import LIVE
from tests.faults.played import Call, Player, match, wait_for
from tests.faults.readers import Heard, ask, integrity, needs_strangers, subscriber
from tests.faults.station import Station

pytestmark = [
    needs_strangers,
    pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount()),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
SHORT_S, LONG_S = 0.6, 60.0
SLOW_SYNC_S = 1.2
SAVED = re.compile(r"station\.db( was damaged)?: saved")
"""What a start says, and what a station at work"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of its own for the state folder of the station `garden`."""
    disk = Disk(tmp_path / "disk.img", tmp_path / "garden" / "state")
    yield disk
    disk.end()


def begin(station: Station, player: Player) -> None:
    """Start a station and play to it."""
    station.start()
    play(station, player)


def play(station: Station, player: Player) -> None:
    """Play to a station that was started."""
    lives = player.lives
    player.play_to(station.take_pipe())
    wait_for(lambda: player.lives > lives)


def check(station: Station) -> str:
    """Return what `fieldstation check` says where it is not well; empty where it is."""
    command = [sys.executable, "-m", "fieldstation", "check", "--state", str(station.state)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 1 else ""


def n_logged(station: Station) -> int:
    """Return how many detections a stranger finds in the log."""
    return int(ask(station.state / "log.db", "SELECT count(*) AS n FROM detections")[0]["n"])


def wait_for_calls(station: Station, n: int) -> None:
    """Wait until so many detections are in the log."""
    wait_for(lambda: n_logged(station) >= n, 120)


def logged(station: Station, calls: list[Call]) -> list[int]:
    """Return the numbers of the calls in the log, in the station's order; all were played."""
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    found = [match(calls, row["scientific_name"], row["started_at"] / 1e6) for row in rows]
    assert None not in found, "in the log, and never played"
    return [call.number for call in found if call]


def covered(station: Station) -> Counter[str]:
    """Return the seconds of each cause in the station's ledger; `` is heard."""
    rows = ask(station.state / "station.db", "SELECT * FROM coverage ORDER BY started_at")
    ends = [row["started_at"] / 1e6 + row["duration_s"] for row in rows]
    for row, end, following in zip(rows, ends, rows[1:], strict=False):
        assert following["started_at"] / 1e6 - end > -0.05, (row, following)
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row["cause"] if row["state"] == "lost" else row["state"]] += row["duration_s"]
    return sums


def watch_memory(station: Station, seconds: float) -> int:
    """Wait; return the most memory that the station held meanwhile, in kB."""
    ends_at, most = time.monotonic() + seconds, 0
    while time.monotonic() < ends_at:
        most = max(most, station.resident_kb())
        time.sleep(0.2)
    return most


Fault = Callable[[Station, Disk, Bent], AbstractContextManager[None]]
FAULTS: dict[str, tuple[str, str, Fault]] = {
    "full": ("the disk is full", "the disk is full", lambda s, d, b: d.full()),
    "forbidden": (
        "no file of the state may be written (chattr +i)",
        "station.db",
        lambda s, d, b: forbidden(s.state),
    ),
    "locked": (
        "another process holds station.db's lock",
        "is locked by another process",
        lambda s, d, b: locked(s.state / "station.db"),
    ),
    "slow": (
        f"each sync takes {SLOW_SYNC_S} s",
        "",
        lambda s, d, b: b.slow(SLOW_SYNC_S),
    ),
}


def suffer(
    names: list[str], station: Station, player: Player, disk: Disk, bent: Bent, hold_s: float
) -> dict[str, object]:
    """Let faults come and go while calls are played; return what was seen of it."""
    seen: dict[str, object] = {}
    n_suffered = 0
    for name in names:
        _, said, fault = FAULTS[name]
        before, n_calls = n_logged(station), len(player.calls)
        with fault(station, disk, bent):
            most_kb = watch_memory(station, hold_s)
            if name == "full" or (said and hold_s > SHORT_S):
                wait_for(lambda said=said: said in check(station), 30)  # type: ignore[misc]
        ended = time.monotonic()
        wait_for_calls(station, len(player.calls))
        n_suffered += len(player.calls) - n_calls
        seen[f"after_{name}_all_in_the_log_within_s"] = time.monotonic() - ended
        seen["most_memory_mb"] = most_kb / 1_000
        assert n_logged(station) > before
    return {"calls_during_it": n_suffered, **seen}


def run_through(
    names: list[str],
    make_station: MakeStation,
    player: Player,
    tmp_path: Path,
    disk: Disk,
    hold_s: float,
) -> tuple[Station, dict[str, object], Heard]:
    """Run one station through faults, and stop it; hold what it wrote against what was played."""
    bent = Bent(tmp_path)
    station = make_station(environment=bent.environment, **LIVE)
    station.start()
    with subscriber(tmp_path / "seen.jsonl", station.reader()) as heard:
        play(station, player)
        wait_for(lambda: n_logged(station) > 1)
        seen = suffer(names, station, player, disk, bent, hold_s)
        calls = [call.number for call in player.calls]
        wait_for_calls(station, len(calls))  # what is on its way ends with the station
        wait_for(lambda: len({d["event_id"] for d in heard.detections()}) >= len(calls))
        assert station.stop() == 0, station.said()
    found = logged(station, player.calls)
    assert found[: len(calls)] == calls, "a call is missing, double or out of order"
    told = [d["event_id"] for d in heard.detections()]
    ids = [r["event_id"] for r in ask(station.state / "log.db", "SELECT event_id FROM detections")]
    assert set(told) <= set(ids)
    sums = covered(station)
    assert set(sums) <= {"heard", "starting"}, sums
    assert integrity(station.state / "station.db") == integrity(station.state / "log.db") == "ok"
    n_found = len(set(calls) & set(found))
    return station, {"calls_played": len(calls), "of_them_in_the_log": n_found, **seen}, heard


def test_a_disk_that_fails_for_a_while_costs_nothing(
    make_station: MakeStation, player: Player, tmp_path: Path, disk: Disk, counts: Counts
) -> None:
    """Full, forbidden, locked and slow, one after the other: hearing and coverage go on."""
    _, seen, _ = run_through(list(FAULTS), make_station, player, tmp_path, disk, SHORT_S)
    counts(
        made=f"full, forbidden, locked, then slow disk, {SHORT_S:g} s each",
        promised="nothing heard is lost or double, coverage without a gap, told by check",
        **seen,
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_that_fails_for_a_minute_costs_nothing(
    name: str,
    make_station: MakeStation,
    player: Player,
    tmp_path: Path,
    disk: Disk,
    counts: Counts,
    long_only: None,
) -> None:
    """The same one by one, for long enough that every wait has grown."""
    _, seen, _ = run_through([name], make_station, player, tmp_path, disk, LONG_S)
    counts(
        made=f"{FAULTS[name][0]}, for {LONG_S:.0f} s",
        promised="nothing heard is lost or double, coverage without a gap, told by check",
        **seen,
    )


def damage(database: Path, table: str) -> bool:
    """Overwrite the last page that holds a table's rows, as a failing card does; return whether.

    Not while somebody is in the midst of a transaction: its WAL would be written over the damage.
    """
    checkpoint = ["sqlite3", database, "PRAGMA wal_checkpoint(TRUNCATE)"]
    if not subprocess.check_output(checkpoint).startswith(b"0|"):
        return False
    query = f"SELECT max(pageno) AS n FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf'"
    number = ask(database, query)[0]["n"]
    size = ask(database, "PRAGMA page_size")[0]["page_size"]
    with database.open("r+b") as file:
        file.seek((number - 1) * size)
        file.write(os.urandom(size))
    return True


def damage_under(station: Station, database: Path, table: str) -> None:
    """Damage a file between two of a station's steps: otherwise it may just write that page."""

    def damaged() -> bool:
        station.signal(signal.SIGSTOP)
        done = damage(database, table)
        station.signal(signal.SIGCONT)
        return done

    wait_for(damaged)


def remove(station: Station, database: Path) -> None:
    """Take a database with its -wal away at once: the station makes another when it looks."""
    station.signal(signal.SIGSTOP)
    for file in station.state.glob(f"{database.name}*"):
        file.unlink()
    station.signal(signal.SIGCONT)


def tear(database: Path) -> None:
    """Cut a -wal in the middle of a page, as a power cut does on a disk that lies."""
    wal = database.with_name(database.name + "-wal")
    os.truncate(wal, wal.stat().st_size * 2 // 3 + 100)


def aside(station: Station, database: str, why: str) -> list[str]:
    """Return the files that were put aside."""
    return [file.name for file in station.state.glob(f"{database}.{why}-*Z")]


def test_databases_that_are_taken_or_damaged_come_back(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """station.db removed, replaced and damaged, log.db damaged, under a station that hears."""
    station = make_station(**LIVE)
    begin(station, player)
    database, log, rounds = station.state / "station.db", station.state / "log.db", 1 + 9 * long
    wait_for_calls(station, 2)
    for number in range(rounds):
        remove(station, database)
        wait_for(database.exists)
        wait_for_calls(station, len(player.calls) + 1)
        shutil.copy(log, tmp_path / "other")
        os.replace(tmp_path / "other", database)
        wait_for_word(station, "station.db.replaced-", number + 1)
        damage_under(station, database, "outbox")
        wait_for_word(station, "station.db was damaged", number + 1)
        damage_under(station, log, "detections")
        wait_for_word(station, "log.db was damaged", number + 1)
    played = {call.number for call in player.calls}
    wait_for(lambda: played <= set(logged(station, player.calls)), 120)
    assert station.stop() == 0, station.said()
    found = logged(station, player.calls)
    assert len(found) == len(set(found)), "a call is double"
    assert integrity(database) == integrity(log) == "ok"
    assert ask(log, "SELECT sum(n) AS n FROM daily") == [{"n": len(found)}]
    counts(
        made="station.db removed, replaced, a page of it and of log.db overwritten while it hears",
        promised="back by itself, told; what one page lost comes from the other database",
        rounds=rounds,
        calls_played=len(played),
        of_them_in_the_log=len(played & set(found)),
    )


def wait_for_word(station: Station, word: str, times: int) -> None:
    """Wait until a station has said something so many times."""
    wait_for(lambda: station.said().count(word) >= times)


def test_a_torn_or_damaged_database_starts_again(
    make_station: MakeStation, player: Player, counts: Counts, long_only: None
) -> None:
    """Between two kills its WAL is cut, or a page of it overwritten: what is whole is there."""
    station = make_station(**LIVE)
    begin(station, player)
    database, rounds = station.state / "station.db", 20
    for number in range(rounds):
        wait_for_calls(station, n_logged(station) + 3)
        station.kill()
        tear(database)
        begin(station, player)
        wait_for_calls(station, n_logged(station) + 3)
        station.kill()
        assert damage(database, "outbox")
        begin(station, player)
        wait_for(lambda n=number: len(SAVED.findall(station.said())) > n)  # type: ignore[misc]
    assert "MEND" in check(station)
    assert station.stop() == 0, station.said()
    found = logged(station, player.calls)
    assert len(found) == len(set(found)), "a call is double"
    assert integrity(database) == integrity(station.state / "log.db") == "ok"
    counts(
        made="SIGKILL, then station.db's WAL cut in a page, or a page overwritten",
        promised="starts unasked, keeps every whole row, doubles nothing",
        rounds=rounds,
        calls_played=len(player.calls),
        in_the_log=len(found),
    )


def test_a_full_disk_ends_no_station_for_good(
    make_station: MakeStation, player: Player, disk: Disk, counts: Counts, long_only: None
) -> None:
    """It stops in time and says what it could not write; started, it exits 1, not 2."""
    station = make_station(**LIVE)
    begin(station, player)
    wait_for(lambda: n_logged(station) > 1)
    with disk.full():
        n = len(player.calls)
        wait_for(lambda: len(player.calls) > n + 2)
        began = time.monotonic()
        assert station.stop() == 0, station.said()
        stop_s = time.monotonic() - began
        assert "requests unwritten" in station.said()
        assert station.start_to_end() == 1, station.said()
    begin(station, player)
    n = n_logged(station)
    wait_for(lambda: n_logged(station) > n + 1)
    assert station.stop() == 0, station.said()
    found = logged(station, player.calls)
    assert len(found) == len(set(found))
    counts(
        made="the disk is full when the station stops and when it starts",
        promised="stops in time and tells what is lost; started, exit 1 until there is room",
        stopped_after_s=stop_s,
        exit_code_started_when_full="1",
        calls_played=len(player.calls),
        in_the_log=len(found),
    )


def test_a_disk_that_gives_up_is_told_and_what_it_had_is_kept(
    make_station: MakeStation,
    player: Player,
    tmp_path: Path,
    disk: Disk,
    counts: Counts,
    long_only: None,
) -> None:
    """Read-only for good (ext4's abort): the station hears on in memory until the machine boots."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    station = make_station(environment=environment, **LIVE)
    begin(station, player)
    wait_for(lambda: n_logged(station) > 1)
    kept = n_logged(station)
    disk.give_up()
    n = len(player.calls)
    wait_for(lambda: len(player.calls) > n + 6)
    told = check(station)
    assert "problem" in told, told
    assert "station.db" in told, told
    heard = station.said().count(" (Sonus")
    assert station.stop() == 0, station.said()
    refused = station.start_to_end()
    disk.unmount()
    disk.check()
    disk.mount()
    assert n_logged(station) >= kept
    assert integrity(station.state / "station.db") == "ok"
    begin(station, player)
    wait_for_calls(station, n_logged(station) + 2)
    assert station.stop() == 0, station.said()
    found = logged(station, player.calls)
    assert len(found) == len(set(found))
    counts(
        made="the file system becomes read-only under the station; then a reboot",
        promised="told by check; heard on in memory; what was on the disk is there after the boot",
        calls_heard_in_all=heard,
        in_the_log_before=kept,
        exit_code_started_when_read_only=str(refused),
        in_the_log_at_the_end=len(found),
    )
