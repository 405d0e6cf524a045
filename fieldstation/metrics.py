"""Health as metrics for Prometheus: a page of text, and the listener that serves it.

The page holds what was last told on the health topic, so that a scrape costs the station nothing
and cannot wait for a disk. `docs/metrics.md` has every metric; nothing here is imported unless
`metrics.listen` is set.

The listener answers one request at a time and gives each a few seconds in all. Python's http.server
limits each read instead, so that a client that drips bytes would hold it, and with it the watchdog.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event
from typing import NamedTuple

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""prometheus.io/docs/instrumenting/exposition_formats"""
PATH = b"/metrics"
REQUEST_S = 2.0
REQUEST_BYTES = 8_192
TURN_S = 0.5
RETRY_S = 5.0
"""After an address that is taken or not there yet"""
US_PER_S = 1e6


class Metric(NamedTuple):
    """One line of the page, and where in health its value stands."""

    name: str
    kind: str
    help: str
    key: str
    scale: float = 1.0


METRICS = (
    Metric("health_time_seconds", "gauge", "When this was told, Unix time", "at", 1 / US_PER_S),
    Metric("uptime_seconds", "gauge", "Since the start of the run", "uptime_s"),
    Metric("heard_seconds_total", "counter", "Sound heard in this run", "heard_s"),
    Metric("lost_seconds_total", "counter", "Sound lost in gaps in this run", "lost_s"),
    Metric("heard_today_seconds", "gauge", "Heard since local midnight", "heard_today_s"),
    Metric("lost_today_seconds", "gauge", "Not heard since local midnight", "lost_today_s"),
    Metric("asleep_today_seconds", "gauge", "Asleep by schedule since midnight", "asleep_today_s"),
    Metric("gaps_total", "counter", "Gaps in the sound", "n_gaps"),
    Metric("clipped_samples_total", "counter", "Samples at full scale", "n_clipped"),
    Metric("events_total", "counter", "Birds heard in this run", "n_events"),
    Metric("analysis_load_ratio", "gauge", "Analysis time per second heard", "real_time_factor"),
    Metric("waiting_messages", "gauge", "Messages without a receipt", "n_waiting"),
    Metric("unwritten_changes", "gauge", "Changes that the disk has not taken yet", "n_unwritten"),
    Metric("outbox_bytes", "gauge", "Disk that waiting messages take", "outbox_mb", 1e6),
    Metric("broker_connected", "gauge", "1 while the broker is there", "connected"),
    Metric("resent_messages_total", "counter", "Messages sent again", "n_resent"),
    Metric("refused_messages_total", "counter", "Messages in a logger's quarantine", "n_refused"),
    Metric("logged_detections_total", "counter", "Detections that our own log took", "n_logged"),
    Metric("waiting_pictures", "gauge", "Pictures still to be painted", "n_pictures_waiting"),
    Metric("parked_pictures", "gauge", "Pictures that cannot be painted", "n_pictures_parked"),
    Metric("dropped_pictures", "gauge", "Pictures given up for newer ones", "n_pictures_dropped"),
    Metric("picture_seconds", "gauge", "What a picture takes to paint", "ms_per_picture", 1e-3),
)


def render(station: str, health: Mapping[str, object]) -> str:
    """Return the page: metrics whose value health tells as a number, and what the station is."""
    label = f'station="{_escaped(station)}"'
    told = ",".join(
        f'{key}="{_escaped(str(health.get(key, "")))}"'
        for key in ("version", "encoder_id", "provider", "source")
    )
    lines = _lines("info", "gauge", "What the station is; always 1", f"{label},{told}", 1)
    problems = health.get("problems")
    n_problems = len(problems) if isinstance(problems, list) else 0
    lines += _lines("problems", "gauge", "What is wrong just now; see health", label, n_problems)
    for metric in METRICS:
        value = health.get(metric.key)
        if isinstance(value, int | float):
            lines += _lines(metric.name, metric.kind, metric.help, label, value * metric.scale)
    return "\n".join(lines) + "\n"


def _lines(name: str, kind: str, text: str, labels: str, value: float) -> list[str]:
    name = f"fieldstation_{name}"
    return [f"# HELP {name} {text}.", f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value:.15g}"]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsPage:
    """A stage: serves a page to whoever asks for /metrics at an address."""

    def __init__(self, host: str, port: int, page: Callable[[], str]) -> None:
        """Nothing happens before `run`.

        Args:
            page: returns the text; empty while there is nothing to tell.
        """
        self._address = (host, port)
        self._page = page
        self.fault = ""
        """Why it cannot listen; empty when it does"""
        self.port = 0
        """Where it listens, once it does"""

    def run(self, stop: Event, beat: Callable[[], None]) -> None:
        """Serve until `stop`; an address that cannot be had is tried again and again."""
        while not stop.is_set():
            try:
                with _listening(self._address) as server:
                    self._report("")
                    self.port = server.getsockname()[1]
                    self._serve(server, stop, beat)
            except OSError as error:
                where = f"{self._address[0]}:{self._address[1]}"
                self._report(f"metrics.listen is {where}: {error.strerror or error}")
                _wait(RETRY_S, stop, beat)

    def _serve(self, server: socket.socket, stop: Event, beat: Callable[[], None]) -> None:
        while not stop.is_set():
            beat()
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client, suppress(OSError):  # who leaves or dawdles gets no answer
                _answer(client, self._page())

    def _report(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.warning("%s: trying again", fault)
        self.fault = fault


def _listening(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    server = socket.create_server(address, family=family, backlog=8)
    server.settimeout(TURN_S)
    return server


def _answer(client: socket.socket, page: str) -> None:
    """Read a request and answer it.

    Raises:
        OSError: the client left, or took too long.
    """
    method, path = _read_request(client, time.monotonic() + REQUEST_S)
    if method != b"GET":
        status, body = "405 Method Not Allowed", "only GET\n"
    elif path.split(b"?")[0] != PATH:
        status, body = "404 Not Found", "see /metrics\n"
    elif not page:
        status, body = "503 Service Unavailable", "nothing to tell yet\n"
    else:
        status, body = "200 OK", page
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    client.settimeout(REQUEST_S)
    client.sendall(head.encode() + content)


def _read_request(client: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    """Return method and path; empty where it is no request.

    Raises:
        OSError: it was not complete in time, or too long.
    """
    said = b""
    while b"\r\n\r\n" not in said:
        left = deadline - time.monotonic()
        if left <= 0 or len(said) > REQUEST_BYTES:
            raise TimeoutError
        client.settimeout(left)
        if not (more := client.recv(4_096)):
            raise ConnectionResetError
        said += more
    method, path, *_ = [*said.split(b"\r\n")[0].split(b" "), b"", b""]
    return method, path


def _wait(seconds: float, stop: Event, beat: Callable[[], None]) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and not stop.wait(TURN_S):
        beat()
