"""Very many events that nobody confirms: memory stays flat, and the disk has a limit that tells."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from fieldstation.mqtt.messages import detection_message
from fieldstation.records import Detection, Event, Label, Message
from fieldstation.store.station_db import StationStore
from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import Player, wait_for
from tests.faults.readers import ask, count, needs_strangers
from tests.faults.station import Station
from tests.mosquitto import Mosquitto

pytestmark = needs_strangers
BEGAN_AT = 1_777_600_000_000_000
US_PER_S = 1_000_000


def fill_outbox(path: Path, n: int, key: str) -> None:
    """Let a station have heard so much that nobody confirmed: what its own writer would write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store = StationStore(path)
    for first in range(0, n, 1_000):
        with store.transaction() as transaction:
            for number in range(first, min(n, first + 1_000)):
                event = heard(number)
                transaction.record_event(event, lambda place, e=event: told(e, place, key))  # type: ignore[misc]
    store.close()


def heard(number: int) -> Event:
    """Return an event of long ago."""
    began = BEGAN_AT + number * US_PER_S
    label = Label("Turdus merula", "Blackbird")
    return Event(UUID(int=number), label, began, began + US_PER_S, 0.9, 0.5, "0123456789abcdef")


def told(event: Event, sequence: int, key: str) -> Message:
    """Return its message."""
    return detection_message(
        Detection(
            event_id=str(event.id),
            station="garden",
            station_key=key,
            sequence=sequence,
            started_at=event.started_at,
            ended_at=event.ended_at,
            timezone="UTC",
            scientific_name=event.label.scientific_name,
            common_name=event.label.common_name,
            probability=event.probability,
            threshold=event.threshold,
            encoder_id=event.encoder_id,
        )
    )


def check_of(station: Station) -> dict[str, str]:
    """Return what `fieldstation check` says beside a station, by its first word."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "fieldstation", "check"),
            *("--state", station.state, "--config", station.folder / "settings.toml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return {line.split()[0]: line for line in ended.stdout.splitlines() if line}


def test_a_full_outbox_is_told_and_hears_again_when_the_log_has_confirmed(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """What comes by a pipe waits meanwhile; nothing that was written goes."""
    if not long:
        pytest.skip("with --long")
    broker = Mosquitto(tmp_path)
    station = make_station(settings=f'[mqtt]\nurl = "{broker.url}"\noutbox_max_mb = 1\n')
    fill_outbox(station.state / "station.db", 1_500, "old")
    station.start()
    player.play_to(station.take_pipe())
    wait_for(lambda: "the outbox is full" in check_of(station).get("station.db", ""))
    assert "MEND" in check_of(station)["station.db"]
    n_full = count(station.state / "station.db", "events")
    broker.start()
    wait_for(lambda: count(station.state / "log.db", "detections") > n_full)
    player.leave()
    assert station.wait() == 0, station.said()
    broker.kill()
    query = "SELECT DISTINCT event_id, scientific_name FROM detections ORDER BY sequence"
    rows = ask(station.state / "log.db", query)
    names = [row["scientific_name"] for row in rows if row["scientific_name"] != "Turdus merula"]
    assert len(rows) - len(names) == n_full == 1_500
    assert names == [call.species for call in player.calls]
    counts(
        made="an outbox at its limit of disk, no broker; then one",
        promised="told by `check` and health; hears again after receipts, nothing dropped",
        events_waiting_at_the_limit=n_full,
        in_the_log=len(rows),
        calls_played=len(player.calls),
    )


DEBIAN = ("allow_anonymous true", "max_queued_messages 1000", "max_inflight_messages 20")
"""Mosquitto's own defaults, with which it drops what a slow logger has not taken yet"""
GROWTH_KB = 64 * 1024
"""What the station may take more with 100,000 events waiting than with none"""


ONCE_AND_IN_ORDER = """
SELECT count(*) AS n, count(DISTINCT event_id) AS ids, sum(step <= 0) AS backward
FROM (SELECT event_id, started_at - lag(started_at) OVER (ORDER BY sequence) AS step
      FROM detections)
"""


def peak_while(station: Station, so: Callable[[], bool], within_s: float) -> int:
    """Return the most memory the station took until something was so, in kB."""
    peak, ends_at = station.resident_kb(), time.monotonic() + within_s
    while not so():
        assert time.monotonic() < ends_at, station.said()
        time.sleep(0.25)
        peak = max(peak, station.resident_kb())
    return peak


def test_memory_is_flat_over_very_many_waiting_events(
    make_station: MakeStation, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """Whatever waits is on the disk; with a broker that drops, all of it arrives once."""
    n = 100_000 if long else 500
    broker = Mosquitto(tmp_path, DEBIAN)
    station = make_station(settings=f'[mqtt]\nurl = "{broker.url}"\n')
    station.start()
    alone_kb = peak_while(station, after(20 if long else 0), 60)
    station.kill()
    fill_outbox(station.state / "station.db", n, "old")
    if not long:
        broker.start()
    station.start()
    away_kb = peak_while(station, after(30 if long else 0), 60)
    if long:
        broker.start()
    began = time.monotonic()
    log = station.state / "log.db"
    back_kb = peak_while(station, lambda: count(log, "detections") >= n, 3_600)
    took_s = time.monotonic() - began
    assert max(away_kb, back_kb) - alone_kb < GROWTH_KB
    waiting = "outbox WHERE confirmed_at IS NULL"
    wait_for(lambda: count(station.state / "station.db", waiting) == 0, 300)
    station.kill()
    broker.kill()
    (sums,) = ask(log, ONCE_AND_IN_ORDER)
    assert (sums["n"], sums["ids"], sums["backward"]) == (n, n, 0)
    counts(
        made=f"{n:,} events waiting; no broker, then one that drops what a log is slow to take",
        promised="memory flat; each in the log once",
        events_in_the_log=sums["ids"],
        memory_with_none_waiting_mb=alone_kb / 1024,
        most_while_away_mb=away_kb / 1024,
        most_while_told_mb=back_kb / 1024,
        logged_and_confirmed_per_s=n / took_s,
    )


def after(seconds: float) -> Callable[[], bool]:
    """Return what is true from now on in so many seconds."""
    ends_at = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends_at
