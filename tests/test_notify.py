"""The service speaks sd_notify's protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from fieldstation.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Listen as systemd does; give NOTIFY_SOCKET's value and the socket."""
    name = f"@fieldstation-test-{uuid4()}" if request.param == "abstract" else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.settimeout(2)
        yield name, listener


def test_states_arrive_in_order(systemd: tuple[str, socket.socket]) -> None:
    """Every state reaches the socket as one datagram, in the order it was sent."""
    name, listener = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("listening:\nUSB microphone")
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    states = [listener.recv(256).decode() for _ in range(4)]
    assert states == ["STATUS=listening: USB microphone", "READY=1", "WATCHDOG=1", "STOPPING=1"]
    notifier.close()


def test_without_systemd_nothing_happens() -> None:
    """At a terminal there is no socket, and every call is quietly nothing."""
    notifier = Notifier({})
    notifier.ready()
    notifier.close()


def test_a_vanished_socket_is_survived(tmp_path: Path) -> None:
    """systemd going away, or never having been there, does not stop the station."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.alive()
    notifier.close()


def test_a_full_socket_never_blocks(systemd: tuple[str, socket.socket]) -> None:
    """A reader that reads nothing costs dropped datagrams, not a stuck main thread."""
    name, listener = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for _ in range(2_000):
        notifier.alive()
    assert listener.recv(64) == b"WATCHDOG=1"
    notifier.close()
