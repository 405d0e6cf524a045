"""How many rows a second reach a log through a real broker and the real logger process.

    python -m bench.ingest                                   # SQLite, a new file
    python -m bench.ingest --postgresql                      # a server of its own, with fsync
    python -m bench.ingest --database postgresql://user@host/empty
    python -m bench.ingest --database big.db                 # into a log that is there

One publisher plays a hundred stations over one connection (messages made beforehand, QoS 1, at
most as many unacknowledged as the broker takes), Mosquitto passes them on, `fieldstation log`
reads, checks, commits, acknowledges and gives receipts. Counted are rows that another process
reads from the log, so every one is committed. The second figure is what a hub does that was away:
the broker has all messages when the logger starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select

from bench.store import START, detection
from fieldstation.mqtt.messages import detection_message
from fieldstation.records import Detection, Message
from fieldstation.store.database import file_of
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import DAILY
from tests.mosquitto import Mosquitto
from tests.postgres import find_programs, run_server

N_ROWS = 50_000
N_STATIONS = 100
LOOK_S = 0.1
PATIENCE_S = 300.0
RESULTS = Path(__file__).parent / "results" / "ingest.json"


def messages(first: int, n: int) -> list[Message]:
    """Return detections of a hundred stations, in the order in which they would speak."""
    return [detection_message(_spoken(number)) for number in range(first, first + n)]


def _spoken(number: int) -> Detection:
    """Return one detection as a station with a place and clips tells it."""
    station = number % N_STATIONS
    return replace(
        detection(number),
        event_id=str(UUID(int=(START // 1000 + number << 80 | 7 << 76 | 2 << 62 | number))),
        station=f"bench-{station:02d}",
        station_key=f"{station:016x}",
        started_at=START + number * 100_000,
        ended_at=START + number * 100_000 + 3_000_000,
        latitude=52.5,
        longitude=13.4,
        place="Bench",
        clip=f"2026/05/01/{number:08d}.flac",
        source="hw:CARD=USB",
        embedding=None,
    )


class Wire:
    """As much of MQTT 3.1.1 as a publisher needs, so that it costs next to nothing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = b"\0\4MQTT\4\2\0\0" + _text("bench")
        self._socket.sendall(b"\x10" + _length(len(body)) + body)
        assert self._receive(4)[3] == 0, "the broker refuses us"

    def publish(self, payloads: list[Message], window: int = 400) -> None:
        """Send messages at QoS 1 and wait for every acknowledgement."""
        packets = [_publish(message, n % 65_535 + 1) for n, message in enumerate(payloads)]
        sent = acknowledged = 0
        while acknowledged < len(packets):
            more = packets[sent : acknowledged + window]
            self._socket.sendall(b"".join(more))
            sent += len(more)
            acknowledged += len(self._receive(4)) // 4

    def close(self) -> None:
        """Say goodbye."""
        self._socket.sendall(b"\xe0\0")
        self._socket.close()

    def _receive(self, n: int) -> bytes:
        """Return whole packets of `n` bytes each, at least one."""
        held = self._socket.recv(65_536)
        while len(held) % n:
            held += self._socket.recv(n - len(held) % n)
        return held


def _publish(message: Message, packet_id: int) -> bytes:
    body = _text(message.topic) + struct.pack(">H", packet_id) + message.payload
    return b"\x32" + _length(len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def _length(n: int) -> bytes:
    """Return MQTT's variable-length integer."""
    found = b""
    while True:
        n, low = divmod(n, 128)
        found += bytes([low | (128 if n else 0)])
        if not n:
            return found


@contextmanager
def logger(port: int, url: str, state: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `fieldstation log` until the block ends; it is connected when the block begins."""
    command = [sys.executable, "-m", "fieldstation", "log", "--broker", f"mqtt://127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--database", url, "--state", str(state)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "connected" in line:
            break
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def wait_for(log: LogStore, n: int) -> float:
    """Wait until the roll-up counts `n` rows; return the monotonic time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if counted(log) >= n:
            return time.monotonic()
        time.sleep(LOOK_S)
    raise RuntimeError(f"{counted(log)} rows of {n} after {PATIENCE_S} s")


def counted(log: LogStore) -> int:
    """Return how many detections of ours the roll-up tells."""
    ours = select(func.sum(DAILY.c.n)).where(DAILY.c.station.between("bench-", "bench-~"))
    with log.database.read() as connection:
        return int(connection.execute(ours).scalar() or 0)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(url: str, folder: Path, n_rows: int) -> dict[str, float]:
    """Run the broker, the logger and the publisher."""
    broker = Mosquitto(folder)
    broker.start()
    log = LogStore(url)
    before = counted(log)
    live = messages(before, n_rows)
    waiting = messages(before + n_rows, n_rows)
    try:
        with logger(broker.port, url, folder / "hub") as process:
            wire = Wire(broker.port)
            while counted(log) == before:  # until it is subscribed too
                wire.publish(live[:1])
                time.sleep(LOOK_S)
            wire.publish(live[:500])
            wait_for(log, before + 500)
            busy, began = cpu_s(process.pid), time.monotonic()
            wire.publish(live[500:])
            told = time.monotonic()
            ended = wait_for(log, before + n_rows)
            busy = cpu_s(process.pid) - busy
        wire.publish(waiting)
        started = time.monotonic()
        with logger(broker.port, url, folder / "hub"):
            connected = time.monotonic()
            caught_up = wait_for(log, before + 2 * n_rows)
        wire.close()
    finally:
        broker.kill()
        log.close()
    return {
        "rows": n_rows,
        "rows_per_s": round((n_rows - 500) / (ended - began)),
        "published_per_s": round((n_rows - 500) / (told - began)),
        "logger_cpu_us_per_row": round(1e6 * busy / (n_rows - 500), 1),
        "rows_per_s_after_absence": round(n_rows / (caught_up - connected)),
        "start_s": round(connected - started, 2),
    }


def middle(runs: list[dict[str, float]]) -> dict[str, object]:
    """Return the median of each figure, and every run's first."""
    found: dict[str, object] = {
        name: statistics.median(run[name] for run in runs) for name in runs[0]
    }
    return found | {"rows_per_s_of_each_run": [run["rows_per_s"] for run in runs]}


@contextmanager
def database(arguments: argparse.Namespace, folder: str) -> Iterator[str]:
    """Give the url of the log to fill."""
    if not arguments.postgresql:
        yield arguments.database or f"sqlite:///{folder}/log.db"
        return
    programs = find_programs()
    assert programs is not None, "PostgreSQL is not installed: apt install postgresql"
    with run_server(programs, fsync="on") as url:
        yield url


def main() -> None:
    """Measure, print and write one entry for each kind of database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="url of a log; default: a temporary SQLite file")
    parser.add_argument("--postgresql", action="store_true", help="a new server of its own")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="disk to measure; default: the temporary one")
    parser.add_argument("--rows", type=int, default=N_ROWS)
    arguments = parser.parse_args()
    load, runs = os.getloadavg()[0], []
    for _ in range(arguments.runs):
        with (
            tempfile.TemporaryDirectory(dir=arguments.folder) as name,
            database(arguments, name) as url,
        ):
            runs.append(measure(url, Path(name), arguments.rows))
            kind = "sqlite" if file_of(url) else "postgresql"
            print(json.dumps(runs[-1]), flush=True)
    found = {
        "command": " ".join(["python -m bench.ingest", *sys.argv[1:]]),
        "date": f"{date.today()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load_average": round(load, 1),
        "has_precedence": os.sched_getscheduler(0) != os.SCHED_OTHER,
        "versions": {"sqlite": sqlite3.sqlite_version, "python": platform.python_version()},
        **middle(runs),
    }
    print(json.dumps(found, indent=1))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {kind: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
