"""A real Mosquitto for tests, on a free loopback port, that can be hurt."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")
BASE = "max_queued_messages 0\nmax_inflight_messages 500\nset_tcp_nodelay true\n"


def free_port() -> int:
    """Return a port of the loopback on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Mosquitto:
    """A broker without persistence: when it is restarted, it has forgotten everything."""

    def __init__(self, folder: Path, lines: Iterable[str] = ("allow_anonymous true",)) -> None:
        assert PROGRAM is not None
        self.port = free_port()
        self.folder = folder
        config = folder / "mosquitto.conf"
        text = f"listener {self.port} 127.0.0.1\nuser root\n{BASE}" + "\n".join(lines) + "\n"
        config.write_text(text)
        self._command = [PROGRAM, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError(f"mosquitto does not listen on {self.port}")

    def kill(self) -> None:
        """End it at once; a stopped one too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def read_again(self) -> None:
        """Let it read its passwords anew; who is connected and known stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def hang(self) -> None:
        """Let it hold its connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
