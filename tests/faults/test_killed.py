"""SIGKILL at random moments: what was committed is in the log once, and nothing else is."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import SPECIES, Call, Player, match, wait_for
from tests.faults.readers import Heard, ask, integrity, needs_strangers, subscriber
from tests.faults.station import Station
from tests.mosquitto import Mosquitto

pytestmark = needs_strangers
LONGEST_LIFE_S = 7.0
"""A start takes one or two: some kills fall into it"""


def live_and_die(station: Station, player: Player, life_s: float) -> float | None:
    """Start a station, kill it after a time; return the seconds until it listened, if it did."""
    ends_at = time.monotonic() + life_s
    ready_s = station.start_within(life_s)
    if ready_s is not None:
        player.play_to(station.take_pipe())
        time.sleep(max(0.0, ends_at - time.monotonic()))
    station.kill()
    return ready_s


def hear_and_die(station: Station, player: Player) -> float:
    """Start a station, kill it when it has written a call; return the seconds until it listened."""
    ready_s = station.start()
    player.play_to(station.take_pipe())
    wait_for(lambda: committed(station))
    station.kill()
    return ready_s


def kill_broker(station: Station) -> None:
    """Let the station's own broker die with it: by itself it would still save what it knows."""
    with suppress(OSError, ValueError):
        os.kill(int((station.state / "broker" / "pid").read_text()), signal.SIGKILL)


def committed(station: Station) -> list[str]:
    """Return the ids of the events in station.db, in the station's order."""
    if not (station.state / "station.db").exists():
        return []
    tables = ask(station.state / "station.db", "SELECT name FROM sqlite_schema")
    if {"name": "events"} not in tables:
        return []
    query = "SELECT e.id FROM events e JOIN outbox o ON o.id = e.id ORDER BY o.sequence"
    return [row["id"] for row in ask(station.state / "station.db", query)]


def check_log(station: Station, before: set[str], calls: list[Call]) -> list[Call]:
    """Hold the log against what was committed and played; return the calls in it."""
    rows = ask(
        station.state / "log.db",
        "SELECT event_id, scientific_name, started_at FROM detections ORDER BY sequence",
    )
    ids = [row["event_id"] for row in rows]
    assert before <= set(ids), "committed, and not in the log"
    assert ids == committed(station)
    found = [match(calls, row["scientific_name"], row["started_at"] / 1e6) for row in rows]
    assert None not in found, "in the log, and never played"
    numbers = [call.number for call in found if call]
    assert numbers == sorted(set(numbers)), "a call twice, or out of order"
    assert not ask(station.state / "log.db", "SELECT * FROM quarantine")
    daily = ask(station.state / "log.db", "SELECT sum(n) AS n FROM daily")
    assert daily == [{"n": len(rows)}]
    return [call for call in found if call]


def check_no_hole(played: list[Call], logged: list[Call]) -> int:
    """See that each life lost its last calls at most; return how many in all."""
    known = {call.number for call in logged}
    for life in {call.life for call in played}:
        numbers = [call.number for call in played if call.life == life]
        kept = list(takewhile(known.__contains__, numbers))
        assert not known & set(numbers[len(kept) :]), "lost, and a later one was not"
    return len(played) - len(logged)


def pitch(clip: Path) -> float:
    """Return the loudest frequency of a recording, in hertz."""
    samples, rate = soundfile.read(clip)
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * rate / len(samples))


def check_clips(station: Station) -> Counter[str]:
    """See that rows and files agree, and that a clip holds its bird; return the states."""
    rows = ask(
        station.state / "station.db", "SELECT scientific_name, clip_state, clip_file FROM events"
    )
    files = {row["clip_file"]: row for row in rows if row["clip_state"] == "written"}
    clips = station.state / "clips"
    there = {str(path.relative_to(clips)) for path in clips.rglob("*") if path.is_file()}
    assert there == set(files)
    for name, row in files.items():
        assert abs(pitch(clips / name) - SPECIES[row["scientific_name"]]) < 50
    return Counter(row["clip_state"] for row in rows)


@contextmanager
def broker_of(kind: str, folder: Path) -> Iterator[Mosquitto | None]:
    """Give a broker that outlives the station, or None for the station's own."""
    if kind == "own":
        yield None
        return
    broker = Mosquitto(folder)
    broker.start()
    yield broker
    broker.kill()


def finish(station: Station, player: Player, heard: Heard | None) -> None:
    """Let a last life hear something and come to its end, with nothing left to tell."""
    station.start()
    player.play_to(station.take_pipe())
    lives = player.lives
    wait_for(lambda: player.lives > lives)
    player.leave()
    assert station.wait() == 0, station.said()
    if heard:
        known = set(committed(station))
        wait_for(lambda: known <= {d["event_id"] for d in heard.detections()})


@pytest.mark.parametrize("kind", ["own", "other"])
def test_a_killed_station_loses_nothing_that_it_wrote(
    kind: str, make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """Its broker dies with it, or lives on and has a subscriber that misses nothing."""
    if kind == "other" and not long:
        pytest.skip("with --long")
    n_kills, longest_s = (99, LONGEST_LIFE_S) if long else (1, 1.0)
    chance = random.Random(20261121)
    before: set[str] = set()
    started: list[float] = []
    with broker_of(kind, tmp_path) as broker:
        url = f'[mqtt]\nurl = "{broker.url}"\n' if broker else "[mqtt]\nport = 0\n"
        station = make_station(settings=url)
        lines = tmp_path / "seen.jsonl"
        access = ("127.0.0.1", broker.port, "", "") if broker else None
        with subscriber(lines, access) if access else nullcontext() as heard:
            started.append(hear_and_die(station, player))
            for n in range(n_kills):
                before |= set(committed(station))
                ready_s = live_and_die(station, player, chance.uniform(0.1, longest_s))
                started += [ready_s] if ready_s else []
                if not broker and n % 2 == 0:
                    kill_broker(station)
            before |= set(committed(station))
            finish(station, player, heard)
    logged = check_log(station, before, player.calls)
    lost = check_no_hole(player.calls, logged)
    clips = check_clips(station)
    assert integrity(station.state / "station.db") == integrity(station.state / "log.db") == "ok"
    counts(
        made=f"SIGKILL at random moments, {'its own' if kind == 'own' else 'another'} broker",
        promised="every committed event in the log once, in order; rows and clips agree",
        kills=n_kills + 1,
        calls_played=len(player.calls),
        committed_before_a_kill=len(before),
        in_the_log=len(logged),
        in_the_pipe_or_open_when_killed=lost,
        ready_median_s=sorted(started)[len(started) // 2],
        ready_longest_s=max(started),
        **{f"clips_told_as_{state}": n for state, n in sorted(clips.items(), reverse=True)},
    )
