"""The metrics page: its form, and a listener that nobody can hold up."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fieldstation import metrics
from fieldstation.metrics import METRICS, MetricsPage, render
from tests.mqtt.fakes import Stage, until

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
HEALTH: dict[str, object] = {
    "at": 1_777_612_345_500_000,
    "version": "0.1.0",
    "uptime_s": 86_400.5,
    "heard_s": 31_536_000.1,
    "lost_s": 0.25,
    "n_events": 42,
    "connected": True,
    "source": 'USB "mic", left\\\n',
    "problems": ["the disk is full"],
}


def samples(page: str) -> dict[str, float]:
    """Return every sample of a page, as Prometheus' own parser reads it."""
    families = text_string_to_metric_families(page)
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_page_is_what_prometheus_reads() -> None:
    """Values with their units, a boolean as 0 or 1, and only what health tells."""
    found = samples(render("garden", HEALTH))
    assert found["fieldstation_health_time_seconds"] == 1_777_612_345.5
    assert found["fieldstation_uptime_seconds"] == 86_400.5
    assert found["fieldstation_heard_seconds_total"] == 31_536_000.1
    assert found["fieldstation_events_total"] == 42
    assert found["fieldstation_broker_connected"] == 1
    assert found["fieldstation_problems"] == 1
    assert "fieldstation_gaps_total" not in found


def test_odd_texts_stay_inside_their_label() -> None:
    """A quotation mark in a device's name ends no line."""
    families = {f.name: f for f in text_string_to_metric_families(render('a"b\nc', HEALTH))}
    info = families["fieldstation_info"].samples[0]
    assert info.labels["station"] == 'a"b\nc'
    assert info.labels["source"] == HEALTH["source"]


def test_every_metric_is_documented_and_no_other() -> None:
    """docs/metrics.md has the names, kinds and where in health they stand."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `?(\w*)`? \|", PAGE.read_text("utf-8"), re.M)
    told = {(m.kind, f"fieldstation_{m.name}", m.key) for m in METRICS}
    told |= {("gauge", "fieldstation_info", ""), ("gauge", "fieldstation_problems", "problems")}
    assert {(kind, name, key) for name, kind, key in rows} == told


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_names_follow_prometheus_rules(metric: metrics.Metric) -> None:
    """A counter ends in _total, a time in _seconds, and nothing else does."""
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    in_seconds = metric.key.endswith("_s") or metric.key in ("at", "ms_per_picture")
    assert ("_seconds" in metric.name) == in_seconds


@pytest.fixture
def page() -> Iterator[tuple[MetricsPage, Stage]]:
    """A listener at a free port that serves what a station told."""
    listener = MetricsPage("127.0.0.1", 0, lambda: render("garden", HEALTH))
    stage = Stage(listener)
    stage.start()
    until(lambda: listener.port)
    yield listener, stage
    stage.stop()
    assert stage.error is None


def ask(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_scrape_gets_the_page(page: tuple[MetricsPage, Stage]) -> None:
    """By a real GET; other paths and methods are told what there is."""
    port = page[0].port
    status, text = ask(port)
    assert status == 200
    assert samples(text)["fieldstation_events_total"] == 42
    assert ask(port, path="/metrics?name=x")[0] == 200
    assert ask(port, path="/") == (404, "see /metrics\n")
    assert ask(port, method="POST")[0] == 405


@pytest.mark.parametrize("said", [b"", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"x" * 20_000])
def test_garbage_ends_nothing(page: tuple[MetricsPage, Stage], said: bytes) -> None:
    """The next scrape is answered."""
    answer = b""
    # Too much of it is not read to its end, which the system tells the client as an error.
    with socket.create_connection(("127.0.0.1", page[0].port)) as client, suppress(OSError):
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(100)
    assert b"200" not in answer
    assert ask(page[0].port)[0] == 200


def drip(client: socket.socket) -> None:
    for _ in range(100):
        client.sendall(b"G")
        time.sleep(0.05)


def test_who_drips_bytes_holds_neither_page_nor_watchdog(
    page: tuple[MetricsPage, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole request has a limit, not each byte of it."""
    monkeypatch.setattr(metrics, "REQUEST_S", 0.3)
    listener, stage = page
    with socket.create_connection(("127.0.0.1", listener.port)) as client:
        n_before = stage.n_beats
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(client)
        until(lambda: stage.n_beats > n_before)
    monkeypatch.undo()  # who asks may be slow
    assert ask(listener.port)[0] == 200


def test_a_station_without_metrics_does_not_even_load_them() -> None:
    """Off, they cost no memory."""
    code = "import sys, fieldstation.service; print('fieldstation.metrics' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_nothing_to_tell_yet_is_said() -> None:
    """A scrape before the first health is no empty page, which would look like zero."""
    listener = MetricsPage("127.0.0.1", 0, lambda: "")
    stage = Stage(listener)
    stage.start()
    until(lambda: listener.port)
    assert ask(listener.port)[0] == 503
    stage.stop()


def test_an_address_that_is_taken_is_told_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The station runs on; when the address is free, the page is there."""
    monkeypatch.setattr(metrics, "RETRY_S", 0.05)
    monkeypatch.setattr(metrics, "TURN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        listener = MetricsPage("127.0.0.1", other.getsockname()[1], lambda: "x\n")
        stage = Stage(listener)
        stage.start()
        until(lambda: "Address already in use" in listener.fault)
        assert stage.n_beats > 0 or not listener.port
    until(lambda: listener.port)
    assert listener.fault == ""
    stage.stop()
