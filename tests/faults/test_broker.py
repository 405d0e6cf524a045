"""A broker that stops, hangs, forgets, refuses or crawls: detections go on, and all arrive once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from fieldstation.mqtt.broker import find_program, is_free
from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import Player, match, wait_for
from tests.faults.proxy import Door, Knock, Proxy
from tests.faults.readers import Heard, ask, count, needs_strangers, subscriber
from tests.faults.station import Station
from tests.mosquitto import Mosquitto

pytestmark = needs_strangers
SEEN = "seen.jsonl"
RETURN_S = 150.0
"""Longest wait for what was told in a fault to be in the log: two of the longest back-offs"""


@dataclass
class Scene:
    """A station, its broker, and the way between them."""

    station: Station
    broker: Mosquitto
    proxy: Proxy
    passwords: Path
    heard: Heard

    def n_committed(self) -> int:
        """Return how many events are in station.db."""
        return count(self.station.state / "station.db", "events")

    def n_logged(self) -> int:
        """Return how many detections are in the log."""
        return n_logged(self.station)

    def password(self, word: str) -> None:
        """Let the broker know station and stranger by a password, from its next start on."""
        self.passwords.write_text(f"garden:{word}\nstranger:hoot\n")
        subprocess.run([find_program("mosquitto_passwd"), "-U", self.passwords], check=True)


def stopped(scene: Scene, wait: Callable[[], None]) -> None:
    """Let the broker end, and another with an empty memory come in its place."""
    scene.broker.kill()
    wait()
    scene.broker.start()


def frozen(scene: Scene, wait: Callable[[], None]) -> None:
    """Let the broker hold its connections and answer nothing."""
    scene.broker.hang()
    wait()
    scene.broker.go_on()


def refusing(scene: Scene, wait: Callable[[], None]) -> None:
    """Let the broker take another password than the station's."""
    n_subscribed = scene.heard.n_subscribed()
    scene.broker.kill()
    scene.password("changed")
    scene.broker.start()
    wait()
    # Who comes back to a broker that forgot him after the station misses what it tells.
    wait_for(lambda: scene.heard.n_subscribed() > n_subscribed)
    scene.password("owl")
    scene.broker.read_again()


def slow(scene: Scene, wait: Callable[[], None]) -> None:
    """Let less pass than the station has to tell."""
    scene.proxy.delay_s, scene.proxy.bytes_per_s = 0.3, 1_000
    wait()
    scene.proxy.delay_s, scene.proxy.bytes_per_s = 0.0, 0.0


FAULTS = {
    "stopped": (stopped, "is stopped, and another with an empty memory comes in its place"),
    "frozen": (frozen, "is frozen (SIGSTOP)"),
    "refusing": (refusing, "wants another password"),
    "slow": (slow, "lets 1 kB/s pass"),
}
HOLD_S = 100.0
"""Of a fault in the long form; in the short form until two calls were heard"""


@contextmanager
def scene_of(make_station: MakeStation, folder: Path) -> Iterator[Scene]:
    """Start a broker that wants passwords, and make a station that has one."""
    passwords = folder / "passwords"
    lines = ("allow_anonymous false", f"password_file {passwords}")
    broker = Mosquitto(folder, lines)
    proxy = Proxy(broker.port)
    (folder / "secret").write_text("owl\n")
    station = make_station(
        settings=f'[mqtt]\nurl = "{proxy.url}"\nusername = "garden"\n'
        f'password_file = "{folder}/secret"\n'
    )
    scene = Scene(station, broker, proxy, passwords, Heard(folder / SEEN))
    scene.password("owl")
    broker.start()
    try:
        yield scene
    finally:
        broker.kill()
        proxy.close()


def check_all(scene: Scene, player: Player, heard: Heard) -> int:
    """See that what was played is in the log once and was heard at least once; return how much."""
    query = "SELECT event_id, scientific_name, started_at FROM detections ORDER BY sequence"
    rows = ask(scene.station.state / "log.db", query)
    found = [match(player.calls, row["scientific_name"], row["started_at"] / 1e6) for row in rows]
    assert found == player.calls
    known = {row["event_id"] for row in rows}
    wait_for(lambda: known <= {d["event_id"] for d in heard.detections()})
    assert not ask(scene.station.state / "log.db", "SELECT * FROM quarantine")
    return len(rows)


@pytest.mark.parametrize("names", ["refusing", "frozen", "stopped slow"])
def test_whatever_becomes_of_the_broker_everything_arrives_once(
    names: str,
    make_station: MakeStation,
    player: Player,
    tmp_path: Path,
    counts: Counts,
    long: bool,
) -> None:
    """What was heard meanwhile is written at once, and told when the broker is there again."""
    if names != "refusing" and not long:
        pytest.skip("with --long")
    n_during, back_s = 0, []
    with scene_of(make_station, tmp_path) as scene:
        scene.station.start()
        access = ("127.0.0.1", scene.broker.port, "stranger", "hoot")
        with subscriber(tmp_path / SEEN, access) as heard:
            player.play_to(scene.station.take_pipe())
            wait_for(lambda: scene.n_logged() >= 1)
            for name in names.split():
                before = scene.n_committed()

                def wait(before: int = before) -> None:
                    time.sleep(HOLD_S if long else 0)
                    wait_for(lambda: scene.n_committed() >= before + 2)

                FAULTS[name][0](scene, wait)
                began, committed = time.monotonic(), scene.n_committed()
                n_during += committed - before
                wait_for(lambda n=committed: scene.n_logged() >= n, RETURN_S)
                back_s.append(time.monotonic() - began)
            player.leave()
            assert scene.station.wait(RETURN_S) == 0, scene.station.said()
            n_logged = check_all(scene, player, heard)
    counts(
        made=f"the broker {', then '.join(FAULTS[name][1] for name in names.split())}"
        + (f", for {HOLD_S:.0f} s" if long else ""),
        promised="detections go on; after its return each is in the log once",
        calls_played=len(player.calls),
        written_meanwhile=n_during,
        in_the_log=n_logged,
        messages_heard_with_repeats=len(heard.detections()),
        connections=len(scene.proxy.attempts),
        all_in_the_log_after_s=" and ".join(f"{s:.0f}" for s in back_s),
    )


MANNERS = {
    "closes": "closes at once",
    "silent": "says nothing",
    "accepts": "accepts, then closes",
}


@pytest.mark.parametrize("manner", MANNERS)
def test_attempts_come_one_at_a_time_and_ever_more_rarely(
    manner: str, make_station: MakeStation, player: Player, counts: Counts, long: bool
) -> None:
    """Each connection waits for its last attempt to end, then at least half of 1, 2, 4 … 60 s."""
    if manner != "closes" and not long:
        pytest.skip("with --long")
    door = Door(manner)
    station = make_station(settings=f'[mqtt]\nurl = "mqtt://127.0.0.1:{door.port}"\n')
    station.start()
    player.play_to(station.take_pipe())
    time.sleep(150 if long else 1)
    wait_for(lambda: len({knock.client for knock in door.knocks}) == 2 and len(door.knocks) >= 4)
    station.kill()
    door.close()
    clients = sorted({knock.client for knock in door.knocks})
    waits = {client: waits_of(door.of(client)) for client in clients}
    for client in clients:
        steps = [min(2.0**n, 60.0) for n in range(len(waits[client]))]
        assert all(w >= 0.5 * s for w, s in zip(waits[client], steps, strict=True))
    assert waits[clients[0]] != waits[clients[1]]
    counts(
        made=f"in the broker's place a listener that {MANNERS[manner]}",
        promised="one attempt at a time for each of two connections, with jittered back-off",
        attempts=" and ".join(str(len(door.of(client))) for client in clients),
        waits_s=" and ".join("/".join(f"{w:.1f}" for w in waits[client]) for client in clients),
    )


def waits_of(knocks: list[Knock]) -> list[float]:
    """Return how long a client waited after each attempt, in seconds."""
    return [later.came_s - earlier.left_s for earlier, later in pairwise(knocks)]


def test_its_own_broker_is_killed_and_a_thief_takes_the_port(
    make_station: MakeStation, player: Player, counts: Counts, long: bool
) -> None:
    """The station goes on, has its broker back elsewhere, and tells the thief nothing."""
    if not long:
        pytest.skip("with --long")
    station = make_station()
    station.start()
    player.play_to(station.take_pipe())
    told, ports = [], []
    for _ in range(5):
        n_calls = len(player.calls)
        wait_for(lambda n=n_calls: n_logged(station) > n)
        ports.append(station.reader()[1])
        door = steal(station, ports[-1])
        wait_for(lambda: station.reader()[1] != ports[-1], 120)
        time.sleep(2)
        told += door.knocks
        door.close()
    player.leave()
    assert station.wait(RETURN_S) == 0, station.said()
    assert not told
    rows = ask(station.state / "log.db", "SELECT scientific_name, started_at FROM detections")
    assert len(rows) == len(player.calls)
    counts(
        made="its own broker killed, and its port taken by another process",
        promised="back on another port; the thief is told nothing; each call once in the log",
        kills=len(ports),
        connections_to_the_thief=len(told),
        calls_played=len(player.calls),
        in_the_log=len(rows),
    )


def steal(station: Station, port: int) -> Door:
    """Kill a station's broker and listen in its place, before the station looks."""
    station.signal(signal.SIGSTOP)
    os.kill(int((station.state / "broker" / "pid").read_text()), signal.SIGKILL)
    wait_for(lambda: is_free(port))
    door = Door("silent", port)
    station.signal(signal.SIGCONT)
    return door


def n_logged(station: Station) -> int:
    """Return how many detections are in a station's log."""
    return count(station.state / "log.db", "detections")
