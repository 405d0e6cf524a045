"""Stages that fail, hang and end, as the main thread sees them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from fieldstation.errors import MendableError
from fieldstation.notify import Notifier
from fieldstation.supervisor import Supervisor
from tests.fakes import FakeClock
from tests.mqtt.fakes import until


class Feeds(Notifier):
    """Counts how often the watchdog is fed."""

    def __init__(self) -> None:
        super().__init__({})
        self.n = 0

    def alive(self) -> None:
        self.n += 1


class Loop:
    """A stage that beats until told to stop, or does once what it is told."""

    def __init__(self, once: Callable[[], None] | None = None) -> None:
        self._once = once

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        if self._once:
            self._once()
            return
        while not stop.wait(0.01):
            beat()


def test_a_stage_that_fails_is_raised_even_if_it_was_awaited() -> None:
    """A source that breaks off has ended too, but not well."""

    def broken() -> None:
        raise MendableError("the file is damaged")

    supervisor = Supervisor(FakeClock(), Feeds())
    stage = supervisor.start("analysis", Loop(broken))
    with pytest.raises(MendableError, match="damaged"):
        supervisor.watch(lambda: stage.ended)


def test_the_watchdog_is_fed_only_while_every_stage_is_in_time() -> None:
    """One hung stage starves it, until it turns again."""
    clock, feeds, gate = FakeClock(), Feeds(), threading.Event()
    supervisor = Supervisor(clock, feeds)
    well = supervisor.start("well", Loop())
    hung = supervisor.start("hung", Loop(lambda: gate.wait(60) and None))
    supervisor.look()
    assert feeds.n == 1
    clock.advance(21)
    until(lambda: well.late_s() == 0)  # it has beaten at the new time
    supervisor.look()
    assert feeds.n == 1
    assert supervisor.late() == ["hung"]
    gate.set()
    assert hung.stop()
    supervisor.look()
    assert feeds.n == 2
    assert well.stop()


def test_a_stage_that_does_not_stop_is_told() -> None:
    """The wait is bounded."""
    gate = threading.Event()
    stage = Supervisor(FakeClock(), Feeds()).start("deaf", Loop(lambda: gate.wait(60) and None))
    assert not stage.stop(timeout_s=0.05)
    gate.set()
    assert stage.stop()


@contextmanager
def signalled_at(step: int) -> Iterator[list[str]]:
    """Send SIGTERM to this process before the line of that number; give the lines that were run."""
    lines: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> object:
        if event == "line":
            lines.append(frame.f_code.co_name)
            if len(lines) == step:
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(None)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Give a test's signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("own_signals")
def test_a_signal_is_heard_wherever_the_main_thread_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of its wait, too, whose locks it may hold: one comes at each step in turn."""
    monkeypatch.setattr("fieldstation.supervisor.TICK_S", 0.001)
    step = 1
    while True:
        supervisor = Supervisor(FakeClock(), Feeds())
        supervisor.take_signals()
        with signalled_at(step) as lines:
            supervisor.watch(is_done=lambda: True)
        if len(lines) < step:
            break
        assert supervisor.asked_to_stop
        step += 1
    assert step > 10
