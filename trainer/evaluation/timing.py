"""How long models take for a window, measured in turn on one core."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

N_TIMED = 200


@dataclass(frozen=True, slots=True)
class Took:
    """Medians of one work."""

    cpu_ms: float
    """Of this process, all threads: what else the machine does is not in it"""
    wall_ms: float


def medians_in_turn(
    works: Mapping[str, Callable[[], object]], n_times: int = N_TIMED
) -> dict[str, Took]:
    """Return how long each work takes on one core.

    In turn, so that caches and clock rates that others change fall on all alike.
    """
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    with one_core():
        for work in works.values():
            work()  # the first call allocates
        for _ in range(n_times):
            for name, work in works.items():
                took[name].append(timed_s(work))
    return {name: median(times) for name, times in took.items()}


def median(times: Sequence[tuple[float, float]]) -> Took:
    """Return the medians of (CPU, wall) seconds, in milliseconds."""
    cpu, wall = zip(*times, strict=True)
    return Took(1e3 * statistics.median(cpu), 1e3 * statistics.median(wall))


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


def timed_s(work: Callable[[], object]) -> tuple[float, float]:
    """Return the (CPU, wall) seconds that work takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall
