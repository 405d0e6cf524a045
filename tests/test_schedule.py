"""Chores: asked for from anywhere, done one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from fieldstation import schedule
from fieldstation.schedule import Chore, Chores


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
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
        gate.wait(60)
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


def test_chores_come_at_their_times() -> None:
    """Often by the thread's own count, nightly by APScheduler, and by hand only when asked."""
    done: list[str] = []
    stage = Chores(
        [
            Chore("often", lambda: done.append("often") or "", every_s=0.05),
            Chore("nightly", lambda: "", at="03:30"),
            Chore("by hand", lambda: done.append("by hand") or ""),
        ]
    )
    scheduler = schedule.start([stage], "Europe/Berlin")
    thread, stop = run(stage)
    try:
        assert wait_until(lambda: done.count("often") > 1)
        nightly = scheduler.get_job("nightly").next_run_time
        assert (nightly.hour, nightly.minute, str(nightly.tzinfo)) == (3, 30, "Europe/Berlin")
        assert "by hand" not in done
    finally:
        scheduler.shutdown()
        stop.set()
        thread.join(5)


def test_a_chore_may_come_sooner_after_the_start_than_between() -> None:
    """Who is switched on for half an hour a day does what is due every hour, too."""
    done: list[str] = []
    stage = Chores(
        [
            Chore("soon", lambda: done.append("soon") or "", every_s=3_600, first_s=0.05),
            Chore("later", lambda: done.append("later") or "", every_s=3_600),
        ]
    )
    thread, stop = run(stage)
    assert wait_until(lambda: done == ["soon"])
    time.sleep(0.1)
    stop.set()
    thread.join(5)
    assert done == ["soon"]


@pytest.mark.parametrize("step_s", [-365 * 86_400, -3_600, 365 * 86_400])
def test_a_clock_that_is_set_delays_no_chore(step_s: float) -> None:
    """A station whose clock began a year ahead would otherwise make no backup for a year."""
    stage = Chores([Chore("backup", lambda: "", at="03:30")])
    scheduler = schedule.start([stage], "Europe/Berlin")
    try:
        in_a_year = datetime.now(UTC) + timedelta(days=365)
        scheduler.modify_job("backup", next_run_time=in_a_year)
        schedule.follow_clock(scheduler, [stage], "Europe/Berlin", step_s)
        due_in = scheduler.get_job("backup").next_run_time - datetime.now(UTC)
        assert due_in <= timedelta(hours=25)  # as many as a day has in autumn
    finally:
        scheduler.shutdown()


def test_a_step_of_hours_over_a_chore_leaves_it_due() -> None:
    """It is late, not left out."""
    stage = Chores([Chore("backup", lambda: "", at="03:30")])
    scheduler = schedule.start([stage], "Europe/Berlin")
    try:
        scheduler.pause()
        passed = datetime.now(UTC) - timedelta(hours=1)
        scheduler.modify_job("backup", next_run_time=passed)
        schedule.follow_clock(scheduler, [stage], "Europe/Berlin", step_s=7_200)
        assert scheduler.get_job("backup").next_run_time == passed
    finally:
        scheduler.shutdown()


def test_summer_time_leaves_out_no_chore_and_doubles_none() -> None:
    """02:30 does not exist one night, and comes twice another."""
    berlin = ZoneInfo("Europe/Berlin")
    trigger = schedule._trigger(Chore("backup", lambda: "", at="02:30"), "Europe/Berlin")
    asked: list[str] = []
    chores = Chores([Chore("backup", lambda: "")])
    chores.request = asked.append  # type: ignore[method-assign]
    for first, n_days in ((datetime(2026, 3, 27, 12), 4), (datetime(2026, 10, 24, 12), 4)):
        asked.clear()
        now, before = first.replace(tzinfo=berlin), None
        while now < (first + timedelta(days=n_days)).replace(tzinfo=berlin):
            before = trigger.get_next_fire_time(before, now)
            now = (before.astimezone(UTC) + timedelta(seconds=1)).astimezone(berlin)
            chores.request_on(now.date(), "backup")
        assert len(asked) == n_days + 1


def test_an_unexpected_fault_gets_out() -> None:
    """A programming error ends the stage, so that the supervisor restarts the process."""
    chores = Chores([Chore("broken", lambda: str(1 / 0))])
    chores.request("broken")
    with pytest.raises(ZeroDivisionError):
        chores.run(threading.Event(), lambda: None)
