"""Makes a process give way: to the ear, to the log, to everybody."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

LOWEST_NICE = 19
FIRST_TO_GO = 900
"""Of 1,000: whom the kernel ends first when memory runs out (proc(5), oom_score_adj)"""


def give_way() -> None:
    """Take the lowest priority, and be the first to go when memory runs out.

    Call it in the main thread before others are started: they inherit it. What the system refuses
    is left: under systemd the unit has seen to it.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="ascii")


def compute_when_idle() -> None:
    """Let this thread, and those it starts, run only where nobody else would.

    For the thread that computes, not for one that holds a database's lock: it may not be run for
    seconds, and who waits for the lock would wait with it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
