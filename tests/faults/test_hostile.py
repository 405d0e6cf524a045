"""What strangers publish: nothing crashes, no bad row, a bounded quarantine that can be read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from fieldstation.commands.watch import describe
from fieldstation.mqtt import messages
from fieldstation.mqtt.messages import Unfit
from fieldstation.records import Detection, Quarantined
from fieldstation.store.log_db import LogStore
from tests.faults import fuzz
from tests.faults.conftest import Counts, MakeStation
from tests.faults.played import Call, Player, match, wait_for
from tests.faults.readers import ask, count, needs_strangers
from tests.mosquitto import Mosquitto
from tests.mqtt.wire_examples import EXAMPLES

READERS: dict[str, Callable[[str, bytes], object]] = {
    "detection": messages.read_detection,
    "coverage": messages.read_coverage,
    "logged": messages.read_receipt,
    "status": messages.read_status,
    "health": messages.read_health,
    "summary": messages.read_summary,
    "image": messages.read_image,
}
NOW = 1_777_600_000_000_000
SEED = 20261121
LONGEST_REASON = 600
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a terminal obeys"""
CONTROL = "'*[' || char(1) || '-' || char(31) || char(127) || ']*'"
BAD_ROWS = {
    "detections": f"""
        typeof(event_id) <> 'text' OR length(event_id) <> 36 OR event_id GLOB '*[^0-9a-f-]*'
        OR typeof(sequence) <> 'integer' OR sequence < 0
        OR typeof(started_at) <> 'integer' OR ended_at < started_at
        OR typeof(probability) <> 'real' OR probability NOT BETWEEN 0 AND 1
        OR typeof(threshold) <> 'real' OR threshold NOT BETWEEN 0 AND 1
        OR n_windows < 1 OR typeof(n_windows) <> 'integer'
        OR date(substr(started_local, 1, 10)) IS NULL
        OR scientific_name = '' OR scientific_name GLOB {CONTROL} OR common_name GLOB {CONTROL}
        OR station = '' OR station GLOB {CONTROL} OR length(station) > 64
        OR latitude NOT BETWEEN -90 AND 90 OR longitude NOT BETWEEN -180 AND 180
        OR clip LIKE '%..%' OR clip LIKE '/%' OR source GLOB {CONTROL}""",
    "coverage": f"""
        typeof(duration_s) <> 'real' OR (duration_s < 0 AND state <> 'clock_step')
        OR state NOT IN ('heard', 'lost', 'clock_step') OR typeof(started_at) <> 'integer'
        OR run_id = '' OR run_id GLOB {CONTROL} OR cause GLOB {CONTROL}""",
    "quarantine": f"""
        reason = '' OR reason GLOB {CONTROL} OR length(reason) > {LONGEST_REASON}
        OR length(payload) > 65536 OR n_bytes < length(payload) OR n_seen < 1
        OR length(topic) > 4096 OR length(digest) <> 64""",
}


def check_log(log: Path) -> dict[str, int]:
    """See by sqlite3 that every row is one that can be used; return how many of each there are."""
    for table, bad in BAD_ROWS.items():
        assert ask(log, f"SELECT * FROM {table} WHERE {bad} LIMIT 3") == [], table
    assert count(log, "quarantine") <= 1_000
    (sums,) = ask(log, "SELECT coalesce(sum(n), 0) AS n FROM daily")
    assert sums["n"] == count(log, "detections")
    return {table: count(log, table) for table in BAD_ROWS}


@needs_strangers
def test_a_fuzzed_message_is_read_or_refused_with_a_reason(
    tmp_path: Path, counts: Counts, long: bool
) -> None:
    """By every reader, by `watch`, and by the log behind them."""
    n = 120_000 if long else 2_000
    tally: Counter[str] = Counter()
    log = LogStore(str(tmp_path / "log.db"))
    detections: list[Detection] = []
    for topic, payload in fuzz.messages(SEED, n):
        found = read(topic, payload)
        tally["refused" if isinstance(found, str) else "read"] += 1
        assert not CONTROLS.search(describe(topic, payload))
        if isinstance(found, str):
            log_away(log, topic, payload, found, tally["refused"])
        elif isinstance(found, Detection):
            detections.append(found)
        elif isinstance(found, messages.Coverage):
            log.record_coverage(found.station, found.station_key, found.intervals)
    for first in range(0, len(detections), 500):
        log.record(detections[first : first + 500], NOW)
    log.close()
    rows = check_log(tmp_path / "log.db")
    if long:
        check_questions(tmp_path / "log.db")
    assert tally["read"] > n / 10
    counts(
        made="fuzzed bytes and fields, read by every reader",
        promised="a value or a reason; no bad row",
        payloads=n,
        **tally,
        **{f"rows_in_{table}": number for table, number in rows.items()},
    )


QUESTIONS = (
    ("detections", "--format", "csv"),
    ("species",),
    ("coverage", "--since", "1990-01-01"),
    ("coverage", "--since", "1990-01-01", "--intervals"),
)


def check_questions(log: Path) -> None:
    """See that every command that reads a log can say what is in this one."""
    for words in QUESTIONS:
        database = ["--database", f"sqlite:///{log}", "--state", str(log.parent)]
        command = [sys.executable, "-m", "fieldstation", *words, *database]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


def read(topic: str, payload: bytes) -> object:
    """Return what the reader of a topic makes of it, or the reason against it as text."""
    kind = topic.rpartition("/")[2]
    messages.legible_id(payload)
    reason = ""
    try:
        return READERS.get(kind, messages.read_detection)(topic, payload)
    except Unfit as unfit:
        reason = str(unfit)
    assert 0 < len(reason) <= LONGEST_REASON
    return reason


def log_away(log: LogStore, topic: str, payload: bytes, reason: str, number: int) -> None:
    """Put one of a hundred into quarantine: each costs a write to the disk."""
    if number % 100 == 0:
        log.quarantine(Quarantined(NOW, topic, payload, reason))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_any_field_may_hold_anything(counts: Counts, long: bool) -> None:
    """Hypothesis looks for the value that a reader stumbles over."""
    if not long:
        pytest.skip("with --long; tests/mqtt/test_messages.py tries a few")
    tried: Counter[str] = Counter()

    @settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(EXAMPLES)), st.data())
    def bend(kind: str, data: st.DataObject) -> None:
        fields = json.loads(EXAMPLES[kind].payload)
        names = data.draw(st.lists(st.sampled_from(sorted(fields)) | st.text(), max_size=3))
        fields |= {name: data.draw(VALUES) for name in names}
        payload = json.dumps(fields, ensure_ascii=data.draw(st.booleans()))
        found = read(EXAMPLES[kind].topic, payload.encode("utf-8", "surrogatepass"))
        tried["refused" if isinstance(found, str) else "read"] += 1

    bend()
    counts(made="values by hypothesis in any field", promised="a value or a reason", **tried)


class Sender:
    """A stranger with every right on the broker, who publishes and counts what was taken."""

    def __init__(self, port: int) -> None:
        self.n_taken = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(200)
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._n_sent = 0

    def send(self, topic: str, payload: bytes, qos: int = 1) -> None:
        """Publish, and wait while many are under way."""
        self._client.publish(topic, payload, qos=qos)
        self._n_sent += 1
        while self._n_sent - self.n_taken > 500:
            time.sleep(0.01)

    def finish(self) -> None:
        """Wait until the broker has everything."""
        wait_for(lambda: self.n_taken == self._n_sent, 120)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_publish(self, *_: object) -> None:
        self.n_taken += 1


def can_be_published(topic: str) -> bool:
    """Return whether Mosquitto passes a topic on; for some it closes the connection."""
    odd = any(ord(letter) < 32 or 0xFDD0 <= ord(letter) <= 0xFDEF for letter in topic)
    return bool(topic) and not odd


@contextmanager
def command(folder: Path, name: object, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run another command of ours beside the station, and end it as Ctrl-C does."""
    with (folder / f"{name}.log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "fieldstation", str(name), *map(str, arguments)],
            stdout=said,
            stderr=said,
        )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    finally:
        process.kill()
        process.wait()
    text = (folder / f"{name}.log").read_text(errors="strict")
    assert "Traceback" not in text
    assert not CONTROLS.search(text.replace("\n", ""))


def played_rows(log: Path, key: str, calls: list[Call]) -> int:
    """See that a log has every call of a station once, in order; return how many."""
    query = (
        "SELECT scientific_name, started_at FROM detections "
        f"WHERE station_key = '{key}' ORDER BY sequence"
    )
    rows = ask(log, query)
    assert [match(calls, r["scientific_name"], r["started_at"] / 1e6) for r in rows] == calls
    return len(rows)


def attack(broker: Mosquitto, n: int) -> int:
    """Publish n fuzzed messages; return how many the broker took."""
    sender = Sender(broker.port)
    for topic, payload in fuzz.messages(SEED + 1, n):
        if can_be_published(topic):
            sender.send(topic, payload)
    sender.send("fieldstation/garden/detection", bytes(fuzz.LARGEST))
    sender.finish()
    return sender.n_taken


@needs_strangers
def test_station_hub_and_watcher_live_on_under_fuzz(
    make_station: MakeStation, player: Player, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """Published by a stranger who may write everywhere, while calls are played."""
    n = 101_000 if long else 60
    broker = Mosquitto(tmp_path)
    broker.start()
    station = make_station(settings=f'[mqtt]\nurl = "{broker.url}"\n')
    hub = tmp_path / "hub"
    watch = ("watch", "--broker", broker.url, "--state", tmp_path)
    with (
        command(tmp_path, "log", "--broker", broker.url, "--state", hub),
        command(tmp_path, *watch) if long else nullcontext(),
    ):
        station.start()
        wait_for(lambda: "connected" in (tmp_path / "log.log").read_text())
        before_kb = station.resident_kb()
        player.play_to(station.take_pipe())
        wait_for(lambda: len(player.calls) > 0)
        n_taken = attack(broker, n)
        wait_until_still(station.state / "log.db")
        most_kb = station.resident_kb()
        player.leave()
        assert station.wait() == 0, station.said()
        key = (station.state / "station.key").read_text().strip()
        hub_log = next(hub.rglob("log.db"))
        logged = f"detections WHERE station_key = '{key}'"
        wait_for(lambda: count(hub_log, logged) >= len(player.calls))
    broker.kill()
    rows, hub_rows = check_log(station.state / "log.db"), check_log(hub_log)
    n_played = played_rows(station.state / "log.db", key, player.calls)
    assert played_rows(hub_log, key, player.calls) == n_played
    assert "Traceback" not in station.said()
    counts(
        made="fuzz from a stranger who may publish everything, through Mosquitto",
        promised="station, hub and `watch` live on; every call once in both logs; no bad row",
        messages=n_taken,
        calls_in_each_log=n_played,
        **{f"rows_in_{table}": number for table, number in rows.items()},
        **{f"rows_in_the_hub_s_{table}": number for table, number in hub_rows.items()},
        lines_in_the_journal=len(station.said().splitlines()),
        memory_before_mb=before_kb / 1024,
        memory_after_mb=most_kb / 1024,
    )


def wait_until_still(log: Path) -> None:
    """Wait until a log takes no more into its quarantine."""
    query, seen = "SELECT sum(n_seen) AS n, max(id) AS last FROM quarantine", None
    while (now := ask(log, query)) != seen:
        seen = now
        time.sleep(0.5)


@needs_strangers
@pytest.mark.parametrize("qos", [0, 1])
def test_a_flood_of_large_messages_does_not_fill_the_memory(
    qos: int, tmp_path: Path, counts: Counts, long: bool
) -> None:
    """What the hub has not taken yet stays at the broker, or is dropped there."""
    if not long:
        pytest.skip("with --long")
    broker = Mosquitto(tmp_path)
    broker.start()
    with command(tmp_path, "log", "--broker", broker.url, "--state", tmp_path / "hub") as hub:
        log = tmp_path / "hub" / "hub" / "log.db"
        wait_for(lambda: "connected" in (tmp_path / "log.log").read_text())
        before_kb = most_memory_kb(hub.pid)
        sender = Sender(broker.port)
        # Dear to read: numbers are objects, and it is JSON to the end.
        body = b'{"schema":"fieldstation.detection/1","x":[' + b"1.5," * 60_000 + b"1]}"
        for number in range(3_000):
            sender.send(f"fieldstation/s{number}/detection", body, qos)
        sender.send("fieldstation/garden/detection", EXAMPLES["detection"].payload)
        sender.finish()
        wait_for(lambda: count(log, "detections") == 1, 600)
        most_kb = most_memory_kb(hub.pid)
    broker.kill()
    assert check_log(log)["quarantine"] > 0
    assert most_kb - before_kb < 320 * 1024
    counts(
        made=f"3,000 messages of 240 kB at once, QoS {qos}",
        promised="bounded memory; what fits is logged",
        memory_before_mb=before_kb / 1024,
        most_memory_mb=most_kb / 1024,
        in_quarantine=count(log, "quarantine"),
    )


def most_memory_kb(pid: int) -> int:
    """Return the most memory that a process ever held, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])
