"""Strangers do not fill the log."""

from __future__ import annotations

from fieldstation.mqtt.seldom import Seldom
from tests.fakes import FakeClock


def test_the_first_line_is_told_at_once_and_the_rest_in_one() -> None:
    """Nothing is silent: the last is shown, with how many came before it."""
    clock, told = FakeClock(), []
    lines = Seldom(told.append, 60.0, clock.monotonic)
    for n in range(1_000):
        lines.say(f"line {n}")
    assert told == ["line 0"]
    clock.advance(59.0)
    lines.turn()
    assert told == ["line 0"]
    clock.advance(1.0)
    lines.turn()
    assert told == ["line 0", "line 999 (998 more before it)"]
    clock.advance(60.0)
    lines.turn()
    lines.say("again")
    assert told[2:] == ["again"]
