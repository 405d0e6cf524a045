"""The worker as a child of `run` at a terminal: started again when it dies, never in the way.

Its lines come through a pipe and go to our log. Whatever becomes of it, the station goes on.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fieldstation.mqtt.backoff import Backoff
from fieldstation.processes import die_with_parent

log = logging.getLogger(__name__)

STOP_S = 5.0
"""What it paints is given back at once; a picture is then painted by the next one"""
STABLE_S = 60.0
"""One that ran so long is started again at once"""
EXIT_MEND = 2
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "1",
)
"""numpy's libraries would start one for every core, and take memory for each"""
NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class Command:
    """What is started, and with which settings over the file's."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    """Not arguments: those are seen by everybody on the machine"""


class WorkerProcess:
    """A worker that lives and dies with this process. For the main thread."""

    def __init__(self, command: Command, backoff: Backoff | None = None) -> None:
        """Nothing happens before `start`.

        Args:
            backoff: waits between a death and the next start.
        """
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._started_at = self._retry_at = 0.0
        self._fault = ""

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def fault(self) -> str:
        """Return what a person must mend before it runs again; empty where nothing."""
        return self._fault

    def start(self) -> None:
        """Start it; main thread only: see `die_with_parent`."""
        self._retry_at = 0.0
        self._started_at = time.monotonic()
        try:
            self._process = self._open()
        except (OSError, subprocess.SubprocessError) as error:  # no memory, no process left
            self._wait("cannot be started: " + str(error))
            return
        reader = threading.Thread(target=_pass_on, args=(self._process,), daemon=True)
        reader.start()

    def check(self) -> None:
        """Start it again where it died, with back-off; not where that would change nothing."""
        code = self._process.poll() if self._process else None
        if code is not None:
            self._process = None
            self._note_end(code)
        elif self._retry_at and time.monotonic() >= self._retry_at:
            self.start()

    def stop(self) -> None:
        """Tell it to end; kill it where it does not."""
        self._retry_at = 0.0
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _open(self) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_CHILDREN}
        return subprocess.Popen(
            self._command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, **ONE_THREAD, **self._command.environment},
            # Ctrl-C is for us; we stop it. And a session's share of the processor is its own: see
            # `give_way`.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )

    def _note_end(self, code: int) -> None:
        if code == EXIT_MEND:
            self._fault = "the worker cannot paint: its line in the log says what to mend"
            log.error("%s", self._fault)
        elif code != 0:  # with 0 it was told so in the settings: there is nothing to be painted
            if time.monotonic() - self._started_at > STABLE_S:
                self._backoff.reset()
            self._wait(f"ended (signal {-code})" if code < 0 else f"ended (code {code})")

    def _wait(self, why: str) -> None:
        wait_s = self._backoff.next()
        self._retry_at = time.monotonic() + wait_s
        log.warning("the worker %s: starting it again in %.0f s", why, wait_s)


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Log what a worker says, until it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        log.info("%s", line.rstrip())
