"""A real `fieldstation run` in a process of its own, which a test starts, kills and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from fieldstation.bundle import Bundle
from tests.faults.played import RATE

PATIENCE_S = 60.0
PIPE = ("--source", "-", "--rate", str(RATE))
SETTINGS = """\
[station]
name = "garden"
timezone = "UTC"
[clips]
pre_roll_s = 0.1
post_roll_s = 0.1
"""
_number = count()


class Station:
    """One state folder and the process that runs on it."""

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        settings: str = "[mqtt]\nport = 0\n",
        arguments: Sequence[str] = PIPE,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        program: Sequence[str] = ("-m", "fieldstation", "run"),
    ) -> None:
        """Write the settings; nothing runs yet.

        Args:
            folder: gets `state`, the settings and `station.log`.
            settings: TOML after this file's own; a table may be named once only.
            arguments: of `run`; PIPE listens to standard input.
            environment: in place of this process's own.
            before: words that stand before the command, such as `nice -n 10`.
            program: what Python runs; `live.PROGRAM` listens to its input as to a microphone.
        """
        self.folder = folder
        self.state = folder / "state"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.toml").write_text(SETTINGS + settings)
        options = ("--config", folder / "settings.toml", "--state", self.state)
        self._command = [
            *(*before, sys.executable, *program),
            *("--bundle", str(bundle.path), *map(str, options), *arguments),
        ]
        self.environment = dict(os.environ if environment is None else environment)

    def start(self) -> float:
        """Start it; return the seconds until its loops ran."""
        seconds = self.start_within(PATIENCE_S)
        assert seconds is not None, self.said()
        return seconds

    def start_within(self, patience_s: float) -> float | None:
        """Start it; return the seconds until its loops ran, or None if they do not yet."""
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            name = f"fieldstation-test-{os.getpid()}-{next(_number)}"
            ready.bind("\0" + name)
            ready.settimeout(0.05)
            self._spawn({"NOTIFY_SOCKET": "@" + name})
            while time.monotonic() < began + patience_s:
                if self._is_ready(ready):
                    return time.monotonic() - began
        return None

    def start_to_end(self) -> int:
        """Start it where it is to be refused; return its exit code."""
        self._spawn({})
        return self.wait()

    def take_pipe(self) -> int:
        """Return the writing end of its standard input; the caller closes it."""
        assert self.process is not None
        assert self.process.stdin is not None
        pipe = os.dup(self.process.stdin.fileno())
        self.process.stdin.close()
        return pipe

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut of the process does."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Ask it to end as systemd does; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Wait for its end; return its exit code."""
        assert self.process is not None
        return self.process.wait(within_s)

    def said(self) -> str:
        """Return all that it wrote so far, in all its lives."""
        return (self.folder / "station.log").read_text(errors="replace")

    def reader(self) -> tuple[str, int, str, str]:
        """Return host, port, user and password of its own broker for a subscriber."""
        path = self.state / "broker" / "reader.json"
        fields = json.loads(path.read_text())
        host, _, port = fields["url"].partition("@")[2].rpartition(":")
        return host, int(port), "reader", fields["password"]

    def resident_kb(self) -> int:
        """Return the memory it holds, in kB."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    def end(self) -> None:
        """See that nothing is left behind."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _spawn(self, environment: Mapping[str, str]) -> None:
        with (self.folder / "station.log").open("ab") as said:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**self.environment, **environment},
            )

    def _is_ready(self, ready: socket.socket) -> bool:
        assert self.process is not None
        try:
            return b"READY=1" in ready.recv(4096)
        except TimeoutError:
            assert self.process.poll() is None, self.said()
            return False
