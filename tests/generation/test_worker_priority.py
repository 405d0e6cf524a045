"""A worker gives way: in a process of its own, since what is given up cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOOK = """
import os, threading
from pathlib import Path
from fieldstation.generation.low_priority import compute_when_idle, give_way

def tell():
    print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE)

give_way()
print(Path("/proc/self/oom_score_adj").read_text().strip())
tell()
thread = threading.Thread(target=lambda: (compute_when_idle(), tell()))
thread.start()
thread.join()
tell()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_what_computes_runs_when_idle_and_what_holds_locks_does_not() -> None:
    """The lowest nice for all, the idle class for the one thread; first to go without memory."""
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, cwd=root, check=True
    )
    assert said.stdout.splitlines() == ["900", "19 False", "19 True", "19 False"]


SESSION = """
from pathlib import Path
from fieldstation.generation.low_priority import give_way

give_way()
print(Path("/proc/self/autogroup").read_text().split()[-1])
"""


IN_SESSIONS = pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel has no groups of sessions"
)


@IN_SESSIONS
def test_a_session_of_its_own_gives_way_as_a_whole_and_a_shells_is_left() -> None:
    """The kernel compares sessions first: without that, the lowest nice counts for nothing."""
    root = Path(__file__).parents[2]
    own = [sys.executable, "-c", SESSION]
    a_shells = ["sh", "-c", '"$@"; exit $?', "sh", *own]
    told = [
        # Never the session of the tests: one that was there at boot tells no group at all.
        subprocess.check_output(call, text=True, cwd=root, start_new_session=True).strip()
        for call in (own, a_shells)
    ]
    assert told == ["19", "0"]


NOBODY = """
import ctypes, os
from pathlib import Path
from fieldstation.generation.low_priority import give_way

def told():
    return Path("/proc/self/autogroup").read_text("ascii").split()[-1]

told()  # before the libraries of root's Python are out of reach
if os.getuid() == 0:
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self stays our own
print(flush=True)
input()
give_way()
print(told())
"""


@IN_SESSIONS
def test_sessions_that_give_way_at_once_all_do() -> None:
    """Who is not root may be told to ask again: Linux takes one such wish in 100 ms."""
    root = Path(__file__).parents[2]
    call, pipe = [sys.executable, "-c", NOBODY], subprocess.PIPE
    workers = [
        subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True, cwd=root, start_new_session=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate()[0].strip() for worker in workers] == ["19"] * 3
