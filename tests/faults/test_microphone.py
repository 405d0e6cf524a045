"""A microphone that is pulled, comes back, sends zeros, is late; two stations that hear one.

The microphone is PipeWire's null sink (tests/system/sound.py), the station a plain
`fieldstation run` with PortAudio.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import RATE, Call, Player, match, wait_for
from tests.faults.readers import ask, integrity, needs_strangers
from tests.faults.station import Station
from tests.mosquitto import Mosquitto
from tests.system import sound
from tests.system.sound import FIRST, SINK, SoundServer, sound_server

pytestmark = needs_strangers
needs_sound = pytest.mark.skipif(bool(sound.why_not()), reason=sound.why_not() or "")
BACK_WITHIN_S = 5.0
TORN_S = 4.0
"""How far from it the half of a call may stand: after a second of no sound what follows is placed
too early, until it is known, 2 s later, that the second is gone"""
DEAD_S, LATE_S = 1.0, 1.2
Span = tuple[float, float]
"""Two instants, seconds since 1970"""
SETTINGS = f"[mqtt]\nport = 0\n[audio]\ndead_s = {DEAD_S}\n"
FEED = [*FIRST, "pacat", "--playback", "--raw", f"--rate={RATE}", "--format=s16le", "--channels=1"]


@pytest.fixture(scope="module")
def server() -> Iterator[SoundServer]:
    """A sound server with a virtual microphone."""
    with sound_server() as running:
        yield running


@contextmanager
def playing(server: SoundServer, player: Player) -> Iterator[None]:
    """Play calls into the microphone from now on."""
    feed = subprocess.Popen(
        [*FEED, f"--device={SINK}", "--latency-msec=100"],
        env=server.environment,
        stdin=subprocess.PIPE,
    )
    assert feed.stdin
    lives = player.lives
    player.play_to(os.dup(feed.stdin.fileno()))
    feed.stdin.close()
    wait_for(lambda: player.lives > lives)
    try:
        yield
        player.leave()
        feed.wait(30)
    finally:
        feed.kill()
        feed.wait()


def n_logged(station: Station) -> int:
    """Return how many detections a stranger finds in the log."""
    return int(ask(station.state / "log.db", "SELECT count(*) AS n FROM detections")[0]["n"])


def logged(station: Station, calls: list[Call], torn: Iterable[Span] = ()) -> list[int]:
    """Return the numbers of the calls in the log, in the station's order.

    Args:
        torn: when playing was broken off: half of a call may have been heard then.
    """
    rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
    found = [match(calls, row["scientific_name"], row["started_at"] / 1e6) for row in rows]
    for row, call in zip(rows, found, strict=True):
        at = row["started_at"] / 1e6
        half = any(began - TORN_S < at < ended + TORN_S for began, ended in torn)
        assert call or half, "in the log, and never played"
    return [call.number for call in found if call]


def lost(station: Station, cause: str) -> float:
    """Return the seconds that the ledger counts as lost for a cause."""
    query = f"SELECT total(duration_s) AS s FROM coverage WHERE cause = '{cause}'"
    return float(ask(station.state / "station.db", query)[0]["s"])


def check(station: Station) -> str:
    """Return what `fieldstation check` says."""
    command = [sys.executable, "-m", "fieldstation", "check", "--state", str(station.state)]
    return subprocess.run(
        command, env=station.environment, capture_output=True, text=True, timeout=60
    ).stdout


def wait_for_new(station: Station, player: Player, n: int = 2, torn: Iterable[Span] = ()) -> float:
    """Wait until calls that begin from now on are heard; return when the first one began."""
    now = time.time()

    def heard() -> list[Call]:
        known = set(logged(station, player.calls, torn))
        return [c for c in player.calls if c.began_at > now and c.number in known]

    wait_for(lambda: len(heard()) >= n)
    return heard()[0].began_at


class Torn(Exception):
    """The microphone is gone while it is played to."""


def pull(server: SoundServer) -> Span:
    """Take the microphone away; return before and after it went."""
    modules = server.control("list", "short", "modules").splitlines()
    (sink,) = (line.split()[0] for line in modules if "module-null-sink" in line)
    began = time.time()
    server.control("unload-module", sink)
    return began, time.time()


def put_back(server: SoundServer) -> float:
    """Plug it in again; return when."""
    sound.add_microphone(server, 48_000)
    return time.time()


def run_process(server: SoundServer, name: str) -> int:
    """Return the process id of a program of the sound server's."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (path / "environ").read_bytes()
            mine = f"XDG_RUNTIME_DIR={server.environment['XDG_RUNTIME_DIR']}\0".encode()
            if (path / "comm").read_text().strip() == name and mine in environment:
                return int(path.name)
    raise AssertionError(f"no {name}")


@needs_sound
def test_a_microphone_that_goes_comes_back_unasked(
    server: SoundServer, make_station: MakeStation, player: Player, counts: Counts, long: bool
) -> None:
    """Pulled and put back, late by a second, and silent with nothing but zeros."""
    station = make_station(settings=SETTINGS, arguments=("--wait",), environment=server.environment)
    station.start()
    server.wait_for_listener()
    n_pulled, away_s, back = 0, 30.0 if long else 1.0, []
    late: list[int] = []
    torn: list[Span] = []
    for _ in range(10 if long else 1):
        with suppress(Torn), playing(server, player):
            wait_for_new(station, player, torn=torn)
            torn.append(pull(server))
            raise Torn
        n_pulled += 1
        time.sleep(away_s)
        returned = put_back(server)
        with playing(server, player):
            back.append(wait_for_new(station, player, 1, torn) - returned)
            late_at = time.time()
            os.kill(run_process(server, "pipewire"), signal.SIGSTOP)
            time.sleep(LATE_S)
            os.kill(run_process(server, "pipewire"), signal.SIGCONT)
            wait_for_new(station, player, 2, torn)
            late += [c.number for c in player.calls if -2 < c.began_at - late_at < LATE_S + 4]
    before = lost(station, "dead")
    wait_for(lambda: lost(station, "dead") > before)
    if long:
        wait_for(lambda: "nothing but zeros" in check(station))
        with playing(server, player):
            wait_for_new(station, player, torn=torn)
    assert station.stop() == 0, station.said()
    found = logged(station, player.calls, torn)
    twice = {number for number in found if found.count(number) > 1}
    assert twice <= set(late), "a call is double"  # one that stood still in its middle is two
    assert max(back) <= BACK_WITHIN_S
    # Without its microphone PipeWire gives zeros: first it is gone, then it is dead.
    deaf_s = lost(station, "microphone") + lost(station, "dead")
    assert deaf_s > (0.9 if long else 0.5) * n_pulled * away_s
    assert integrity(station.state / "station.db") == "ok"
    counts(
        made=f"the microphone pulled for {away_s:g} s and put back, late by {LATE_S} s, zeros",
        promised="heard within 5 s of its return; what is late is not lost; zeros are `dead`",
        pulls=n_pulled,
        longest_until_heard_again_s=max(back),
        late_calls=len(late),
        late_calls_missed=len(set(late) - set(found)),
        late_calls_heard_as_two=len(twice),
        calls_played=len(player.calls),
        in_the_log=len(found),
        told_as_lost_microphone_s=lost(station, "microphone"),
        told_as_dead_s=lost(station, "dead"),
    )


def test_two_stations_of_one_name_both_say_so_and_mix_nothing_up(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long_only: None
) -> None:
    """On one machine, at one broker: every event is in each log once, under its own key."""
    other = Player()
    broker = Mosquitto(tmp_path)
    broker.start()
    settings = f'[mqtt]\nurl = "{broker.url}"\n'
    stations = [make_station(name, settings=settings) for name in ("first", "second")]
    try:
        for station, its_player in zip(stations, (player, other), strict=True):
            station.start()
            its_player.play_to(station.take_pipe())
        wait_for(lambda: all(n_logged(station) > 6 for station in stations))
        for station in stations:
            wait_for(lambda station=station: "has this name" in check(station))  # type: ignore[misc]
        for its_player, station in zip((player, other), stations, strict=True):
            its_player.leave()
            assert station.wait() == 0, station.said()
    finally:
        other.end()
        broker.kill()
    keys = [(station.state / "station.key").read_text().strip() for station in stations]
    n_own = 0
    for station, own, its_player in zip(stations, keys, (player, other), strict=True):
        rows = ask(station.state / "log.db", "SELECT * FROM detections ORDER BY sequence")
        assert {row["station_key"] for row in rows} <= set(keys)
        mine = [row["scientific_name"] for row in rows if row["station_key"] == own]
        assert mine == [call.species for call in its_player.calls]
        assert not ask(station.state / "log.db", "SELECT * FROM quarantine")
        n_own += len(mine)
    counts(
        made="two stations of one name at one broker",
        promised="both say so; each call in its station's log once, under its key",
        calls_played=len(player.calls) + len(other.calls),
        of_them_in_their_station_s_log=n_own,
    )
