"""Child processes that end when their parent does, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""


def die_with_parent() -> Callable[[], None] | None:
    """Return what makes the kernel end the child when its parent is killed; None off Linux.

    For `preexec_fn`. The signal, SIGTERM, comes when the *thread* that forked ends, hence fork
    from the main thread. The library is loaded before the fork: after it, only async-signal-safe
    calls are allowed.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was killed in between
            os._exit(1)

    return in_child
