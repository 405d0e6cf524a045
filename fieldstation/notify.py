"""What the service tells systemd: ready, alive, stopping (sd_notify(3), without libsystemd)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that systemd names; without one, every call does nothing.

    Made from the environment once; a datagram that systemd does not take is dropped, for a
    station must not stop because nobody watches it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read NOTIFY_SOCKET: a path, or `@name` for an abstract socket.

        Args:
            environ: the environment to read.
        """
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            if self._address
            else None
        )

    def ready(self) -> None:
        """Tell that the loops run: `systemctl start` returns."""
        self._send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog; call it at least twice in its WatchdogSec."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`.

        Args:
            text: any text; newlines become spaces.
        """
        self._send("STATUS=" + " ".join(text.splitlines()))

    def stopping(self) -> None:
        """Tell that the shutdown has begun."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:
            # A full or vanished socket: the next state carries on, and systemd's own
            # watchdog is the judge of a silence that lasts.
            return


def _address(name: str) -> str:
    """Return a socket address: Linux spells an abstract name with a leading NUL, systemd `@`."""
    return "\0" + name[1:] if name.startswith("@") else name
