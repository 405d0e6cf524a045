"""What the service tells systemd: ready, alive, stopping (sd_notify(3), without libsystemd)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from fieldstation.clock import US_PER_S


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

    @property
    def watched(self) -> bool:
        """Return whether somebody listens."""
        return self._socket is not None

    def ready(self) -> None:
        """Tell that the loops run: `systemctl start` returns."""
        self._send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog; call it at least every `watchdog_interval_s()`."""
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


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how often to feed the watchdog: half its limit, or None where none is set for us.

    Args:
        environ: the environment with WATCHDOG_USEC and, where systemd sets it, WATCHDOG_PID.

    Source: sd_watchdog_enabled(3), which recommends half the limit.
    """
    limit_us = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", str(os.getpid()))
    if not limit_us.isdecimal() or int(limit_us) == 0 or meant_for != str(os.getpid()):
        return None
    return int(limit_us) / US_PER_S / 2


def _address(name: str) -> str:
    """Return a socket address: Linux spells an abstract name with a leading NUL, systemd `@`."""
    return "\0" + name[1:] if name.startswith("@") else name
