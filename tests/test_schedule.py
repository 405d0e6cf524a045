"""Chores: asked for from anywhere, done one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fieldstation import schedule
from fieldstation.schedule import Chore, Chores


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    ends_at = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < ends_at:
        time.sleep(0.01)
    return condition()


def run(chores: Chores) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=chores.run, args=(stop, lambda: None))
    thread.start()
    return thread, stop


def test_a_requested_chore_is_done_and_a_fault_is_kept_until_it_succeeds() -> None:
    """A full disk fails the backup, not the station; the next success clears it."""
    faults = [OSError("disk full"), None]

    def work() -> str:
        if fault := faults.pop(0):
            raise fault
        return "done"

    chores = Chores([Chore("backup", work)])
    thread, stop = run(chores)
    chores.request("backup")
    assert wait_until(lambda: chores.state() == {"backup": "disk full"})
    chores.request("backup")
    assert wait_until(lambda: not chores.state() and not faults)
    stop.set()
    thread.join(5)


def test_a_chore_asked_for_twice_while_it_waits_is_done_once() -> None:
    """A slow backup does not pile up behind itself."""
    gate, done = threading.Event(), []

    def slow() -> str:
        gate.wait(5)
        return ""

    chores = Chores([Chore("slow", slow), Chore("quick", lambda: done.append(1) or "")])
    thread, stop = run(chores)
    chores.request("slow")
    for _ in range(5):
        chores.request("quick")
    gate.set()
    assert wait_until(lambda: len(done) == 1)
    time.sleep(0.05)
    stop.set()
    thread.join(5)
    assert done == [1]


def test_the_scheduler_posts_names_at_their_times() -> None:
    """APScheduler only says when; a daily chore stands at its local time."""
    chores = [
        Chore("often", lambda: "", every_s=0.05),
        Chore("nightly", lambda: "", at="03:30"),
        Chore("by hand", lambda: ""),
    ]
    posted: list[str] = []
    stage = Chores(chores)
    stage.request = posted.append  # type: ignore[method-assign]
    scheduler = schedule.start([stage], "Europe/Berlin")
    try:
        assert wait_until(lambda: "often" in posted)
        nightly = scheduler.get_job("nightly").next_run_time
        assert (nightly.hour, nightly.minute, str(nightly.tzinfo)) == (3, 30, "Europe/Berlin")
        assert scheduler.get_job("by hand") is None
    finally:
        scheduler.shutdown()


def test_an_unexpected_fault_gets_out() -> None:
    """A programming error ends the stage, so that the supervisor restarts the process."""
    chores = Chores([Chore("broken", lambda: str(1 / 0))])
    chores.request("broken")
    with pytest.raises(ZeroDivisionError):
        chores.run(threading.Event(), lambda: None)
