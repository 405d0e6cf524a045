"""An analysis that is slower than the sound for a while: what is dropped is counted, and told."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.faults.conftest import Counts, MakeStation
from tests.faults.live import BRAKE, LIVE, QUEUE
from tests.faults.played import PERIOD_S, Call, Player, match, wait_for
from tests.faults.readers import ask, integrity, needs_strangers
from tests.faults.station import Station

pytestmark = needs_strangers
WINDOWS_A_SECOND = 10
"""Of 0.2 s, one every 0.1 s"""
SLOWER, MUCH_SLOWER = 8.0, 40.0
"""Times slower than the sound. In a minute of it, sound is dropped in pieces, one a window; only
pieces that are much longer than a call make as many calls missing as seconds"""


def logged(station: Station, calls: list[Call]) -> dict[int, float]:
    """Return the calls in the log and how long after its end each was there, in seconds."""
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    found = [match(calls, row["scientific_name"], row["started_at"] / 1e6) for row in rows]
    assert None not in found, "in the log, and never played"
    numbers = [call.number for call in found if call]
    assert numbers == sorted(numbers), "out of order"
    delays = [row["received_at"] / 1e6 - row["ended_at"] / 1e6 for row in rows]
    return dict(zip(numbers, delays, strict=True))


def wait_for_new(station: Station, player: Player, n_more: int = 1) -> None:
    """Wait until a call that begins from now on is in the log."""
    n = len(player.calls) + n_more
    wait_for(lambda: any(c.number in logged(station, player.calls) for c in player.calls[n:]), 120)


def test_an_analysis_that_falls_behind_drops_the_oldest_and_catches_up(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """The newest sound wins; once it is fast again, a call is in the log as soon as before."""
    slow_s, queue_s, slower = (120.0, 60.0, MUCH_SLOWER) if long else (5.5, 3.0, SLOWER)
    brake = tmp_path / "brake"
    brake.write_text("0")
    environment = {**os.environ, BRAKE: str(brake), QUEUE: str(queue_s)}
    station = make_station(environment=environment, **LIVE)
    station.start()
    player.play_to(station.take_pipe())
    wait_for_new(station, player)
    slow_at = time.time()
    brake.write_text(str(slower / WINDOWS_A_SECOND))
    time.sleep(slow_s)
    fast_at = time.time()
    brake.write_text("0")
    wait_for_new(station, player)
    settled_at = time.time()
    wait_for_new(station, player, 4)
    played = player.calls[:]
    wait_for(lambda: played[-1].number in logged(station, player.calls))
    known = logged(station, player.calls)
    assert station.stop() == 0, station.said()
    behind = ask(
        station.state / "station.db",
        "SELECT total(duration_s) AS s, count(*) AS n FROM coverage WHERE cause = 'behind'",
    )[0]["s"]
    missed = [call for call in played if call.number not in known]
    assert missed, "nothing was dropped: the test is too short"
    assert all(slow_at - queue_s - 1 < call.began_at < fast_at for call in missed)
    dropped_s = len(missed) * PERIOD_S
    assert abs(behind - dropped_s) < 2 + 0.1 * dropped_s
    newest = [c for c in played if fast_at - queue_s / 2 < c.began_at < fast_at]
    assert all(call.number in known for call in newest), "an old call was kept, a newer one not"
    before = [known[c.number] for c in played if c.began_at < slow_at - 1 and c.number in known]
    during = [
        known[c.number] for c in played if slow_at < c.began_at < fast_at and c.number in known
    ]
    after = [known[c.number] for c in played if c.began_at > settled_at and c.number in known]
    assert max(after) < max(during) / 2
    assert integrity(station.state / "station.db") == "ok"
    counts(
        made=f"the analysis {slower:g} times slower than the sound for {slow_s:g} s, "
        f"queue {queue_s:g} s",
        promised="the oldest is dropped and counted as `behind`, the newest kept; it catches up",
        calls_played=len(played),
        calls_dropped=len(missed),
        told_as_behind_s=behind,
        delay_before_s=max(before),
        longest_delay_s=max(during),
        delay_after_s=max(after),
        of_the_newest_calls_missing=0,
    )
