"""Soak a station: days of sound and faults through the real daemon, faster than real time.

    python -m bench.soak [--days 7] [--seed 1] [--sounds FOLDER] [--json FILE]

As root (the state folder is an ext4 of its own, so that it can be full). `fieldstation run` with
the shipped bundle, SQLite and a Mosquitto of the machine's; only its sound card is not real
(soak_station.py) and its time passes with what is played (simulated.py): days with their backups,
summaries and retention in an hour. Whoever reads afterwards is a stranger (soak_checks.py).

Faults come at random, the same for the same seed. Those that end the process come in the first
`--restarts` of the time; then one process lives to the end, and its memory is what is looked at.
Ctrl-C, SIGTERM or `--minutes` ends it early, with the report of what was seen so far.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bench.by_windows import told_by_windows
from bench.simulated import SimulatedTime
from bench.soak_checks import Fault, Life, Played, Sample, look_at
from bench.soak_sound import Judge, Player, Tape, choose
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.demo import RECORDING
from tests.faults.disk import Bent, Disk, cannot_mount, locked
from tests.faults.readers import ask, lacking
from tests.faults.station import Station
from tests.mosquitto import Mosquitto

RESULT = Path(__file__).parent / "results" / "soak.json"
DAY_S = 86_400.0
DEMO_THRESHOLD = 0.25
"""The demo's birds are faint"""
N_SOUNDS = 12
DISK_MB = 512
SAMPLE_S = 600.0
PROGRESS_S = 30.0
"""Real seconds"""
AFTER_START_S = 120.0
"""Between a start and the next fault, at least"""
BETWEEN_S = 90.0
DOWN_PACE, UNHEARD_PACE = 300.0, 60.0
"""Simulated seconds a real one while nothing runs, and while the microphone is away"""
HARD_START = 0.3
"""Share of kills that are followed by another during the start"""
PATIENCE_S = 60.0
A_DAY = {
    "killed": 60.0,
    "stopped": 15.0,
    "broker frozen": 3.0,
    "broker forgetful": 3.0,
    "broker away": 2.0,
    "microphone pulled": 4.0,
    "microphone dead": 1.0,
    "disk full": 2.0,
    "disk slow": 2.0,
    "database locked": 2.0,
    "clock set": 2.0,
}
"""How often each fault comes"""
ENDING = {"killed", "stopped"}
DURATION_S = {
    "killed": (0.0, 300.0),
    "stopped": (0.0, 300.0),
    "broker frozen": (20.0, 1_800.0),
    "broker forgetful": (0.0, 60.0),
    "broker away": (60.0, 7_200.0),
    "microphone pulled": (3.0, 300.0),
    "microphone dead": (70.0, 300.0),
    "disk full": (30.0, 900.0),
    "disk slow": (60.0, 600.0),
    "database locked": (5.0, 120.0),
    "clock set": (0.0, 0.0),
}
CLOCK_SET_S = (2.0, 7_200.0)


@dataclass(frozen=True, slots=True)
class Due:
    """A fault to come, in simulated seconds."""

    at_s: float
    kind: str
    duration_s: float = 0.0


def plan(days: float, restarts: float, seed: int) -> list[Due]:
    """Return the faults to come, in their order."""
    chance = random.Random(seed)
    due = []
    for kind, n_a_day in A_DAY.items():
        until_s = DAY_S * days * (restarts if kind in ENDING else 1.0)
        at_s = AFTER_START_S
        while (at_s := at_s + chance.expovariate(n_a_day / DAY_S)) < until_s - BETWEEN_S:
            due.append(Due(at_s, kind, chance.uniform(*DURATION_S[kind])))
    return sorted(due, key=lambda fault: fault.at_s)


class Interrupted(Exception):
    """Somebody wants the report now."""


@dataclass(slots=True)
class Bench:
    """What a soak plays with, and what it has seen."""

    now: SimulatedTime
    player: Player
    station: Station
    broker: Mosquitto
    disk: Disk
    bent: Bent
    ends_s: float
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    faults: list[Fault] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    committed: set[str] = field(default_factory=set)
    wall_offsets: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    """Simulated seconds, and from then on the wall clock's offset"""
    faulted_by_itself: list[str] = field(default_factory=list)
    progress: Callable[[], None] = lambda: None
    stop_at: float = math.inf
    """Real monotonic second at which somebody wants the report"""
    _sampled_s: float = 0.0

    @property
    def arrivals(self) -> Path:
        """Return where a subscriber writes what it is told, and when."""
        return self.station.folder / "arrivals"

    def listen_to_signals(self, longest_s: float) -> None:
        """Let SIGINT, SIGTERM or the end of so many real seconds interrupt the soak."""
        self.stop_at = time.monotonic() + longest_s

        def ask(number: int, frame: FrameType | None) -> None:
            self.stop_at = 0.0

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask)

    def start(self, began_s: float | None = None) -> None:
        """Start the station and play to it; time passes as in reality meanwhile."""
        self.player.pace = 1.0
        began_s = self.now.elapsed_s if began_s is None else began_s
        self.player.workers.watch("station", None)
        ready_s = self.station.start()
        assert self.station.process is not None
        self.player.workers.watch("station", self.station.process.pid)
        self.player.play_to(self.station.take_pipe())
        self.lives.append(Life(began_s, self.now.elapsed_s, ready_s))

    def stop(self) -> None:
        """Stop the station as systemd does; time passes as in reality meanwhile."""
        asked_s = self.now.elapsed_s
        self.player.is_ending = True
        if (code := self.station.stop()) != 0:
            self.faulted_by_itself.append(f"asked to stop at {asked_s:.0f} s: exit {code}")
        self.player.is_ending = False

    def wait_until(self, elapsed_s: float) -> None:
        """Let time pass; look after the station meanwhile."""
        while self.now.elapsed_s < elapsed_s:
            time.sleep(0.005)
            self.progress()
            if time.monotonic() > self.stop_at:
                self.stop_at = math.inf
                raise Interrupted
            if self.now.elapsed_s >= self._sampled_s + SAMPLE_S:
                self._sample()
            self._see_that_it_lives()

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        self.wait_until(self.now.elapsed_s + seconds)

    def end_life(self, how: str) -> None:
        """Take note that the process is gone, and of what it had committed."""
        assert self.station.process is not None
        life = self.lives[-1]
        life.ended_s, life.how = self.now.elapsed_s, how
        life.code = self.station.process.returncode
        self.committed |= committed(self.station)

    def played(self) -> Played:
        """Return what was played and done, for whoever compares."""
        return Played(
            self.now.began_at,
            self.player.tape.calls,
            self.player.played_at,
            self.wall_offsets,
            self.faults,
            self.lives,
            self.samples,
            self.committed,
        )

    def _see_that_it_lives(self) -> None:
        process = self.station.process
        if process is None or process.poll() is None or self.lives[-1].how:
            return
        self.end_life("by itself")
        self.faulted_by_itself.append(f"at {self.now.elapsed_s:.0f} s: exit {process.returncode}")
        with self.fault("died"):
            self.start()

    def _sample(self) -> None:
        assert self.station.process is not None
        if self.lives[-1].how:
            return
        self._sampled_s = self.now.elapsed_s
        folder = Path(f"/proc/{self.station.process.pid}")
        try:
            n_open = len(list((folder / "fd").iterdir()))
            n_threads = len(list((folder / "task").iterdir()))
            resident_mb = self.station.resident_kb() / 1024
        except (OSError, ValueError):  # it ends just now
            return
        number = len(self.lives) - 1
        self.samples.append(Sample(self._sampled_s, number, resident_mb, n_open, n_threads))

    @contextmanager
    def fault(self, kind: str) -> Iterator[Fault]:
        """Note a fault from begin to end."""
        fault = Fault(kind, self.now.elapsed_s)
        self.faults.append(fault)
        yield fault
        fault.ended_s = self.now.elapsed_s


def committed(station: Station) -> set[str]:
    """Return the ids of the events in station.db, whose process is gone."""
    if not (station.state / "station.db").exists():
        return set()
    tables = ask(station.state / "station.db", "SELECT name FROM sqlite_schema")
    if {"name": "events"} not in tables:
        return set()
    return {row["id"] for row in ask(station.state / "station.db", "SELECT id FROM events")}


def do(bench: Bench, kind: str, duration_s: float) -> None:
    """Do a fault, and wait until it is over."""
    with bench.fault(kind) as fault:
        if kind in ENDING:
            restart(bench, kind, duration_s)
        elif kind.startswith("broker"):
            hurt_broker(bench, kind, duration_s)
        elif kind.startswith("microphone"):
            hurt_microphone(bench, kind, duration_s)
        elif kind == "clock set":
            fault.step_s = set_clock(bench)
        else:
            hurt_disk(bench, kind, duration_s)


def restart(bench: Bench, kind: str, duration_s: float) -> None:
    """End the process, by force or as systemd does; start it after a time."""
    if kind == "killed":
        bench.station.kill()
    else:
        bench.stop()
    bench.end_life(kind)
    bench.player.pace = DOWN_PACE
    bench.wait(duration_s)
    if kind == "killed" and bench.chance.random() < HARD_START:
        bench.player.pace = 1.0
        began_s = bench.now.elapsed_s
        ready_s = bench.station.start_within(bench.chance.uniform(0.05, 2.0))
        bench.station.kill()
        bench.lives.append(Life(began_s, bench.now.elapsed_s, ready_s))
        bench.end_life("killed at its start")
    bench.start()
    bench.wait(AFTER_START_S)


def hurt_broker(bench: Bench, kind: str, duration_s: float) -> None:
    """Freeze the broker, or end it; a new one knows nothing of sessions."""
    if kind == "broker frozen":
        bench.broker.hang()
        bench.wait(duration_s)
        bench.broker.go_on()
    else:
        bench.broker.kill()
        bench.wait(duration_s)
        start_broker(bench)


def start_broker(bench: Bench) -> None:
    """Start it, and let time wait for it."""
    bench.broker.start()
    bench.player.workers.watch("broker", bench.broker.pid)


def hurt_microphone(bench: Bench, kind: str, duration_s: float) -> None:
    """Pull it, or let it give nothing but zeros."""
    if kind == "microphone dead":
        bench.player.is_silent = True
        bench.wait(duration_s)
        bench.player.is_silent = False
        return
    bench.player.pace = UNHEARD_PACE
    bench.now.set("is_unplugged", 1)
    bench.player.is_unplugged = True
    bench.wait(duration_s)
    bench.now.set("is_unplugged", 0)
    bench.player.is_unplugged = False


def hurt_disk(bench: Bench, kind: str, duration_s: float) -> None:
    """Fill the disk, slow it down, or lock a database."""
    database = bench.chance.choice(["station.db", "log.db"])
    hurt: Callable[[], AbstractContextManager[None]] = {
        "disk full": bench.disk.full,
        "disk slow": lambda: bench.bent.slow(1.0),
        "database locked": lambda: locked(bench.station.state / database),
    }[kind]
    with hurt():
        bench.wait(duration_s)


def set_clock(bench: Bench) -> float:
    """Set the wall clock; return by how many seconds."""
    step_s = bench.chance.uniform(*CLOCK_SET_S) * bench.chance.choice([-1, 1])
    offset_s = bench.wall_offsets[-1][1] + step_s
    bench.bent.set("wall_offset_us", round(offset_s * 1e6))
    bench.wall_offsets.append((bench.now.elapsed_s, offset_s))
    return step_s


def soak(bench: Bench, due: Iterable[Due]) -> bool:
    """Play to the end, with faults; return whether it was not interrupted."""
    try:
        bench.start(0.0)
        for fault in due:
            bench.wait_until(max(fault.at_s, bench.now.elapsed_s + BETWEEN_S))
            if bench.now.elapsed_s < bench.ends_s:
                do(bench, fault.kind, fault.duration_s)
        bench.wait_until(bench.ends_s)
    except Interrupted:
        return False
    except Exception as error:  # noqa: BLE001 - the report of an hour is not to be lost
        traceback.print_exc()
        bench.faulted_by_itself.append(f"the soak itself broke off: {error!r}")
        return False
    return True


def settle(bench: Bench) -> None:
    """Take every fault away, let the last calls arrive, and stop the station."""
    bench.bent.set("sync_delay_us", 0)
    bench.now.set("is_unplugged", 0)
    bench.player.is_unplugged = bench.player.is_silent = False
    bench.broker.kill()
    start_broker(bench)
    assert bench.station.process is not None
    if bench.station.process.poll() is not None:
        bench.start()
    for fault in bench.faults:
        if fault.ended_s is None:
            fault.ended_s = bench.now.elapsed_s
    bench.wait(AFTER_START_S)
    bench.lives[-1].asked_to_end_s = bench.now.elapsed_s
    bench.stop()
    bench.end_life("end")


def main() -> None:
    """Soak, print, write; exit 1 where something did not hold."""
    chosen = options()
    if why_not := cannot_mount() or ", ".join(lacking()):
        sys.exit(f"the soak needs root and its strangers: {why_not}")
    bundle = load_bundle(find_bundle("garden"))
    threshold = chosen.threshold or (None if chosen.sounds else DEMO_THRESHOLD)
    thresholds = [threshold] * len(bundle.labels) if threshold else bundle.thresholds
    paths = sorted(chosen.sounds.rglob("*.ogg")) if chosen.sounds else [RECORDING]
    sounds = choose(Judge(bundle, thresholds), paths, N_SOUNDS, chosen.seed)
    if not sounds:
        sys.exit(f"no sound in {chosen.sounds or RECORDING} that the bundle surely names")
    print(f"{len(sounds)} sounds of {len({sound.species for sound in sounds})} species", flush=True)
    with ExitStack() as open_things:
        folder = chosen.folder or Path(open_things.enter_context(tempfile.TemporaryDirectory()))
        bundle = told_by_windows(bundle, folder / "bundle")
        tape = Tape(sounds, chosen.seed)
        ends_s = chosen.days * DAY_S
        bench = set_up(open_things, folder, bundle, threshold, tape, ends_s, chosen.fastest)
        bench.listen_to_signals(60 * chosen.minutes)
        due = plan(chosen.days, chosen.restarts, chosen.seed)
        result = {**about(bundle, chosen), **run(bench, due)}
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(result["failures"]))


def options() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=7.0, help="simulated")
    parser.add_argument("--minutes", type=float, default=math.inf, help="real ones, at most")
    parser.add_argument("--fastest", type=float, default=1_000.0, help="times real time, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--restarts", type=float, default=0.05, help="share of the days in which it is restarted"
    )
    parser.add_argument("--sounds", type=Path, help="folder of .ogg; default: the demo recording")
    parser.add_argument("--threshold", type=float, help="of all species; default: the bundle's")
    parser.add_argument("--folder", type=Path, help="keep state and log here")
    parser.add_argument("--json", type=Path, default=RESULT)
    return parser.parse_args()


def set_up(
    open_things: ExitStack,
    folder: Path,
    bundle: Bundle,
    threshold: float | None,
    tape: Tape,
    ends_s: float,
    fastest: float = math.inf,
) -> Bench:
    """Make everything; nothing runs yet but the broker and the time."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder)
    open_things.callback(broker.kill)
    disk = Disk(folder / "disk.img", folder / "garden" / "state", DISK_MB)
    open_things.callback(disk.end)
    bent = Bent(folder)
    limits = {
        "FIELDSTATION_CLIPS_MAX_SIZE_MB": "60",
        "FIELDSTATION_SCHEDULE_BACKUPS_KEPT": "2",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    now = SimulatedTime(folder, {**bent.environment, **limits})
    settings = f'[mqtt]\nurl = "{broker.url}"\n' + threshold_lines(bundle, threshold)
    station = Station(
        folder / "garden",
        bundle,
        settings=settings,
        arguments=(),
        environment=now.environment,
        before=("setsid",),  # Ctrl-C is for the soak alone
        program=("-m", "bench.soak_station"),
    )
    open_things.callback(station.end)
    player = Player(now, tape, fastest)
    open_things.callback(player.end)
    return Bench(now, player, station, broker, disk, bent, ends_s)


def threshold_lines(bundle: Bundle, threshold: float | None) -> str:
    """Return the settings that make a threshold that of every species."""
    if threshold is None:
        return ""
    lines = (f"{json.dumps(label.scientific_name)} = {threshold}" for label in bundle.species)
    return "[model.thresholds]\n" + "\n".join(lines) + "\n"


def run(bench: Bench, due: Iterable[Due]) -> dict[str, Any]:
    """Soak and look at what came of it."""
    bench.progress = Progress(bench)
    began = time.time()
    arrivals = bench.arrivals
    start_broker(bench)
    with subscriber(bench.broker, arrivals):
        was_whole = soak(bench, due)
        soaked_s, lasted_s = bench.now.elapsed_s, time.time() - began
        settle(bench)
    bench.player.end()
    played = bench.played()
    with (bench.station.folder / "played.json").open("w", encoding="utf-8") as file:
        json.dump({**asdict(played), "committed": sorted(bench.committed)}, file)
    seen = look_at(played, bench.station.state, arrivals)
    failures = [*seen.pop("failures"), *bench.faulted_by_itself]
    return {
        "was_interrupted": not was_whole,
        "days": round(soaked_s / DAY_S, 3),
        "real_s": round(lasted_s),
        "times_real_time": round(soaked_s / lasted_s, 1),
        "blocks_not_taken": bench.player.n_not_taken,
        "blocks_as_in_reality": bench.player.n_real,
        "faults": dict(Counter(fault.kind for fault in bench.faults)),
        **seen,
        "load_after": os.getloadavg()[0],
        "failures": failures,
    }


@contextmanager
def subscriber(broker: Mosquitto, lines: Path) -> Iterator[None]:
    """Write when mosquitto_sub, in real time, gets each detection, and which."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1"]
    command += ["-t", "fieldstation/+/detection", "-F", "%U %p"]
    with lines.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Progress:
    """A line every half minute."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._told = time.monotonic()
        self._told_s = 0.0

    def __call__(self) -> None:
        """Tell it, if it is time."""
        if (since_s := time.monotonic() - self._told) < PROGRESS_S:
            return
        bench, now_s = self._bench, self._bench.now.elapsed_s
        rate = (now_s - self._told_s) / since_s
        self._told, self._told_s = time.monotonic(), now_s
        memory_mb = bench.samples[-1].resident_mb if bench.samples else 0.0
        print(
            f"day {now_s / DAY_S:.3f}, {rate:.0f} times real time, "
            f"{len(bench.player.tape.calls)} calls, {len(bench.lives)} lives, "
            f"{len(bench.faults)} faults, {memory_mb:.1f} MB",
            flush=True,
        )


def about(bundle: Bundle, chosen: argparse.Namespace) -> dict[str, object]:
    """Return what was soaked, on what."""
    return {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "encoder_id": bundle.encoder_id,
        "seed": chosen.seed,
        "load_before": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
