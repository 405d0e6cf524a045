"""A way between a station and its broker that can be slow, short of breath, or closed."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 512
"""Bytes that go on at once: small, so that a slow way is slow and not just late"""


@dataclass(slots=True)
class Attempt:
    """One connection that a station began."""

    began_s: float
    ended_s: float | None = None


class Proxy:
    """Passes bytes both ways, with a delay and at a limited rate."""

    def __init__(self, target: int) -> None:
        self.delay_s = 0.0
        """Of each chunk"""
        self.bytes_per_s = 0.0
        """0: no limit"""
        self.attempts: list[Attempt] = []
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"mqtt://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                attempt = Attempt(time.monotonic())
                self.attempts.append(attempt)
                threading.Thread(target=self._join, args=(near, attempt), daemon=True).start()

    def _join(self, near: socket.socket, attempt: Attempt) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
            back = threading.Thread(target=self._pass, args=(far, near), daemon=True)
            back.start()
            self._pass(near, far)
            back.join()
        attempt.ended_s = time.monotonic()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                pause_s = len(chunk) / self.bytes_per_s if self.bytes_per_s else 0.0
                time.sleep(self.delay_s + pause_s)
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class Knock:
    """One attempt of one client at a door."""

    client: str
    came_s: float
    left_s: float = float("inf")


class Door:
    """Listens where a broker should, notes who knocks, and never lets anybody in.

    It answers nothing, or closes at once, or accepts and closes a moment later.
    """

    CONNACK = bytes([0x20, 0x03, 0x00, 0x00, 0x00])
    """MQTT 5: success, no properties"""

    def __init__(self, manner: str, port: int = 0) -> None:
        self.knocks: list[Knock] = []
        self._manner = manner
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def of(self, client: str) -> list[Knock]:
        """Return the attempts of one client, in order."""
        return [knock for knock in self.knocks if knock.client == client]

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._meet, args=self._server.accept(), daemon=True).start()

    def _meet(self, client: socket.socket, _: object) -> None:
        came_s = time.monotonic()
        with client, suppress(OSError):
            packet = client.recv(4096)
            if not packet:  # a look whether the port is free: nothing was told
                return
            knock = Knock(_client_id(packet), came_s)
            self.knocks.append(knock)
            try:
                self._receive(client)
            finally:
                knock.left_s = time.monotonic()  # before it is closed, and the wait begins

    def _receive(self, client: socket.socket) -> None:
        if self._manner == "accepts":
            client.sendall(self.CONNACK)
            client.recv(4096)
        elif self._manner == "silent":
            while client.recv(4096):
                pass


def _client_id(packet: bytes) -> str:
    """Return the client id of a CONNECT: after its header and its properties (MQTT 5, 3.1)."""
    header = packet.index(b"MQTT") + len(b"MQTT") + 4
    rest = packet[header + 1 + packet[header] :]
    return rest[2 : 2 + int.from_bytes(rest[:2])].decode()
