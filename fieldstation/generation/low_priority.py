"""Makes a process give way: to the ear, to the log, to everybody."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

LOWEST_NICE = 19
FIRST_TO_GO = 900
"""Of 1,000: whom the kernel ends first when memory runs out (proc(5), oom_score_adj)"""
AUTOGROUP = Path("/proc/self/autogroup")
"""Linux shares the processor out between sessions before it looks at their processes' priorities
(sched(7)): what computes in a session of its own takes as much as all of another one, were it ever
so nice, unless the session is"""
AUTOGROUP_TRIES, AUTOGROUP_PAUSE_S = 10, 0.11
"""Linux takes one such wish in 100 ms, of all processes that are not root's together"""


def give_way() -> None:
    """Take the lowest priority, and be the first to go when memory runs out.

    Call it in the main thread before others are started: they inherit it. What the system refuses
    is left: under systemd the unit has seen to it.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE)
    if os.getsid(0) == os.getpid():  # not a shell's session, whose next programs it would slow
        with contextlib.suppress(OSError):
            _give_way_as_session()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="ascii")


def _give_way_as_session() -> None:
    for _ in range(AUTOGROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(LOWEST_NICE), encoding="ascii")
            return
        except BlockingIOError:
            time.sleep(AUTOGROUP_PAUSE_S)


def compute_when_idle() -> None:
    """Let this thread, and those it starts, run only where nobody else would.

    For the thread that computes, not for one that holds a database's lock: it may not be run for
    seconds, and who waits for the lock would wait with it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
