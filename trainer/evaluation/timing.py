"""How long models take for a window, measured in turn on one core."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

N_TIMED = 200


def medians_in_turn(
    works: Mapping[str, Callable[[], object]], n_times: int = N_TIMED
) -> dict[str, float]:
    """Return each work's median in milliseconds.

    In turn, so that what else the machine does falls on all alike: read the ratios, which hold
    where the times themselves do not.
    """
    took: dict[str, list[float]] = {name: [] for name in works}
    with one_core():
        for work in works.values():
            work()  # the first call allocates
        for _ in range(n_times):
            for name, work in works.items():
                took[name].append(timed_ms(work))
    return {name: statistics.median(times) for name, times in took.items()}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread on one core while it lasts, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed_ms(work: Callable[[], object]) -> float:
    """Return the milliseconds that work takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
