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

    def __init__(self, command: Command) -> None:
        """Nothing happens before `start`."""
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._backoff = Backoff(1.0, 120.0)
        self._started_at = self._retry_at = 0.0
        self._given_up = ""
        self._n_deaths = 0

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def fault(self) -> str:
        """Return what a person must mend before it runs again; empty where nothing."""
        return self._given_up

    def start(self) -> None:
        """Start it; main thread only: see `die_with_parent`."""
        environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_CHILDREN}
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            self._command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**environment, **ONE_THREAD, **self._command.environment},
            start_new_session=True,  # Ctrl-C is for us; we stop it
            preexec_fn=die_with_parent(),
        )
        threading.Thread(
            target=_pass_on, args=(self._process,), name="worker's lines", daemon=True
        ).start()

    def check(self) -> None:
        """Start it again where it died, with back-off; not where a person must mend something."""
        if self._process is None or self._given_up or self._process.poll() is None:
            return
        if self._retry_at == 0.0:
            self._note_death(self._process.returncode)
        if self._retry_at and time.monotonic() >= self._retry_at:
            self._retry_at = 0.0
            self.start()

    def stop(self) -> None:
        """Tell it to end; kill it where it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _note_death(self, code: int) -> None:
        if code == EXIT_MEND:
            self._given_up = "the worker cannot paint: its line in the log says what to mend"
            log.error("%s", self._given_up)
            return
        if time.monotonic() - self._started_at > STABLE_S:
            self._backoff.reset()
        wait_s = self._backoff.next()
        self._retry_at = time.monotonic() + wait_s
        how = f"signal {-code}" if code < 0 else f"code {code}"
        log.warning("the worker ended (%s): starting it again in %.0f s", how, wait_s)


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Log what a worker says, until it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        log.info("%s", line.rstrip())
