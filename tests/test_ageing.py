"""The clock by which kept things grow old."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldstation.ageing import AgeingClock
from fieldstation.state import State
from tests.fakes import FakeClock

HOUR_S, DAY_S = 3_600, 86_400


def test_it_follows_a_clock_that_is_right(tmp_path: Path) -> None:
    """Set a little, or asleep between two half hours of two days."""
    clock = FakeClock()
    for pause_s in (HOUR_S, -30, DAY_S):
        ageing = AgeingClock(clock, State(tmp_path).notes())
        assert ageing.wall() == clock.wall()
        clock.step(pause_s)


@pytest.mark.parametrize("leap_s", [3 * DAY_S, 400 * DAY_S])
def test_it_goes_on_by_itself_while_the_clock_is_doubted(tmp_path: Path, leap_s: float) -> None:
    """And is right again with it, or believes it after a day."""
    clock = FakeClock()
    ageing = AgeingClock(clock, State(tmp_path).notes())
    ageing.wall()
    clock.step(leap_s)
    for _ in range(24):
        assert ageing.wall() == clock.wall() - leap_s * 1_000_000
        clock.advance(HOUR_S)
    assert ageing.wall() == clock.wall()


def test_a_leap_to_and_fro_leaves_no_trace(tmp_path: Path) -> None:
    """A glitch of hours at each start never adds up to a day."""
    clock = FakeClock()
    for _ in range(10):
        ageing = AgeingClock(clock, State(tmp_path).notes())
        clock.step(400 * DAY_S)
        for _ in range(5):
            ageing.wall()
            clock.advance(HOUR_S)
        clock.step(-400 * DAY_S)
        assert ageing.wall() == clock.wall()


def test_a_clock_behind_makes_nothing_older(tmp_path: Path) -> None:
    """A machine that begins in 1970 and is set is as old as before."""
    clock = FakeClock()
    AgeingClock(clock, State(tmp_path).notes()).wall()
    clock.step(-40 * 365 * DAY_S)
    ageing = AgeingClock(clock, State(tmp_path).notes())
    assert ageing.wall() == clock.wall()
    clock.step(40 * 365 * DAY_S + 60)
    assert ageing.wall() == clock.wall()


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    """Nor does a file that is damaged."""
    (tmp_path / "ageing.json").write_text('{"believed_at": "soon"')
    clock = FakeClock()
    assert AgeingClock(clock, State(tmp_path).notes()).wall() == clock.wall()
    assert AgeingClock(clock, State(tmp_path / "gone").notes()).wall() == clock.wall()
