"""The worker as a child: started again, given up, ended with its parent; by small real programs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fieldstation.mqtt.backoff import Backoff
from fieldstation.worker_process import Command, WorkerProcess
from tests.mqtt.fakes import until

ROOT = Path(__file__).parents[1]
Start = Callable[..., WorkerProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker that runs a line of shell."""
    started: list[WorkerProcess] = []

    def run(script: str, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(Command(["sh", "-c", script], environment), Backoff(0.05, 0.05))
        worker.start()
        started.append(worker)
        return worker

    yield run
    for worker in started:
        worker.stop()


def test_what_it_says_goes_to_our_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Between our own lines, whole."""
    caplog.set_level(logging.INFO)
    start('echo "picture of $BIRD"; echo trouble >&2', BIRD="a wren")
    until(lambda: {"picture of a wren", "trouble"} <= set(caplog.messages))


def test_it_is_started_again_after_a_wait(start: Start, tmp_path: Path) -> None:
    """However it died."""
    starts = tmp_path / "starts"
    starts.touch()
    worker = start(f"echo x >>{starts}; kill -KILL $$")
    until(lambda: worker.check() or starts.read_text().count("x") >= 3)


def test_a_machine_that_starts_no_process_is_waited_for(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The station goes on: what is missing is a picture."""
    worker = WorkerProcess(Command(["/no/such/program"], {}), Backoff(0.05, 0.05))
    worker.start()
    until(lambda: worker.check() or len(caplog.messages) >= 2)
    assert "the worker cannot be started" in caplog.messages[0]
    assert worker.pid is None
    worker.stop()


def test_what_a_person_must_mend_is_not_tried_again(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit 2: it is said once, and stands in health."""
    worker = start(f"echo x >>{tmp_path}/starts; exit 2")
    until(lambda: worker.check() or worker.fault)
    for _ in range(5):
        worker.check()
        time.sleep(0.02)
    assert (tmp_path / "starts").read_text() == "x\n"
    assert sum("cannot paint" in message for message in caplog.messages) == 1


def test_one_that_has_nothing_to_do_is_not_started_again(start: Start, tmp_path: Path) -> None:
    """It ended well: pictures were turned off in its settings."""
    worker = start(f"echo x >>{tmp_path}/starts")
    until(lambda: worker.pid is None)
    for _ in range(5):
        worker.check()
        time.sleep(0.02)
    assert (tmp_path / "starts").read_text() == "x\n"
    assert worker.fault == ""


def test_told_to_stop_it_ends_also_where_it_does_not_hear(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Painting cannot be interrupted; what it has claimed is taken up by the next."""
    monkeypatch.setattr("fieldstation.worker_process.STOP_S", 0.1)
    worker = start("trap '' TERM; while :; do sleep 0.05; done")
    pid = worker.pid
    assert pid
    worker.stop()
    assert worker.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    worker.check()
    assert worker.pid is None


def test_it_does_not_speak_to_systemd_in_our_place(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor use a core for each of numpy's threads."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    start('echo "socket=$NOTIFY_SOCKET threads=$OMP_NUM_THREADS"')
    until(lambda: "socket= threads=1" in caplog.messages)


PARENT = """
import sys, time
from fieldstation.worker_process import Command, WorkerProcess
worker = WorkerProcess(Command(["sleep", "60"], {}))
worker.start()
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_a_parent_that_is_killed() -> None:
    """No worker is left behind, which would be a second one after the next start."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert os.getsid(child) == child  # Ctrl-C at the terminal is not for it
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    until(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
