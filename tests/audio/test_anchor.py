"""Samples get their instants: none twice, none wandering off."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.audio.anchor import Anchor
from tests.fakes import FakeClock

RATE = 48_000
BLOCK = 4_800


def begin(clock: FakeClock) -> Anchor:
    """Return an anchor that has placed one block of 0.1 s."""
    anchor = Anchor(clock, RATE, BLOCK, clock.monotonic())
    anchor.place(BLOCK, clock.monotonic())
    return anchor


def test_the_first_block_began_its_length_before_it_came() -> None:
    """A block that arrives now holds the last tenth of a second."""
    clock = FakeClock()
    anchor = Anchor(clock, RATE, BLOCK, clock.monotonic())
    assert anchor.place(BLOCK, clock.monotonic()).captured_at == clock.wall() - 100_000


def test_late_arrivals_do_not_move_instants() -> None:
    """Blocks that come unevenly are placed evenly, to the microsecond."""
    clock, wobble = FakeClock(), random.Random(1)
    anchor = begin(clock)
    began = clock.wall()
    for i in range(500):
        clock.advance(0.1)
        placed = anchor.place(BLOCK, clock.monotonic() + wobble.uniform(0, 0.3))
        assert placed.captured_at == began + i * 100_000
        assert placed.n_lost == 0


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_crystal_that_is_off_is_followed(ppm: int) -> None:
    """Over a day, instants stay within 50 ms of the wall clock and never overlap by 0.1 %."""
    clock = FakeClock()
    anchor = begin(clock)
    before = clock.wall() - 100_000
    for _ in range(24 * 60):
        for _ in range(60):
            clock.advance(1 + ppm * 1e-6)  # ten blocks come in a little more than a second
            at = anchor.place(10 * BLOCK, clock.monotonic()).captured_at
            assert at - before >= 0.999 * 100_000
            before = at
    assert abs(at + 1_000_000 - clock.wall()) < 50_000


def test_a_small_step_of_the_wall_clock_is_slewed() -> None:
    """Half a second is taken up a little at a time, and no instant is given twice."""
    clock = FakeClock()
    anchor = begin(clock)
    clock.step(-0.5)
    ats = []
    for _ in range(3_600 * 2):
        clock.advance(1)
        placed = anchor.place(10 * BLOCK, clock.monotonic())
        assert not placed.stepped
        ats.append(placed.captured_at)
    steps = [b - a for a, b in itertools.pairwise(ats)]
    assert 999_000 <= min(steps) <= max(steps) <= 1_001_000
    assert abs(ats[-1] + 1_000_000 - clock.wall()) < 5_000


@pytest.mark.parametrize("step_s", [3_600, -3_600])
def test_a_large_step_of_the_wall_clock_is_followed_at_once(step_s: int) -> None:
    """Who sets the clock means it; the block says that instants jump there."""
    clock = FakeClock()
    anchor = begin(clock)
    clock.advance(0.1)
    clock.step(step_s)
    placed = anchor.place(BLOCK, clock.monotonic())
    assert placed.stepped
    assert placed.captured_at == clock.wall() - 100_000
    assert placed.n_lost == 0


def test_dropped_samples_take_their_time() -> None:
    """A block behind 3 s that the queue dropped stands 3 s later."""
    clock = FakeClock()
    anchor = begin(clock)
    began = clock.wall()
    clock.advance(3.1)
    placed = anchor.place(BLOCK, clock.monotonic(), n_dropped=3 * RATE)
    assert (placed.captured_at, placed.n_lost) == (began + 3_000_000, 3 * RATE)


@pytest.mark.parametrize(("missing_s", "n_lost"), [(0.25, 12_000), (0.0, 1), (-0.02, 1)])
def test_an_overflow_is_as_long_as_the_clock_says(missing_s: float, n_lost: int) -> None:
    """The device does not tell how much it lost; at least one sample, to mark the place."""
    clock = FakeClock()
    anchor = begin(clock)
    clock.advance(0.1 + missing_s)
    placed = anchor.place(BLOCK, clock.monotonic(), overflowed=True)
    assert placed.n_lost == n_lost


def test_sound_that_goes_missing_without_a_word_is_noticed() -> None:
    """Two seconds that neither came nor were reported are told within two minutes."""
    clock = FakeClock()
    anchor = begin(clock)
    clock.advance(2)
    lost = 0
    for _ in range(1_250):
        clock.advance(0.1)
        lost += anchor.place(BLOCK, clock.monotonic()).n_lost
    assert lost == pytest.approx(2 * RATE, abs=1)


def test_sound_of_a_second_that_is_missing_is_noticed_within_seconds() -> None:
    """A plug that is pulled and put back, with a sound server that hides it."""
    clock, wobble = FakeClock(), random.Random(2)
    anchor = begin(clock)
    lost, at = [], []
    for i in range(300):
        clock.advance(1.3 if i == 100 else 0.1)
        placed = anchor.place(BLOCK, clock.monotonic() + wobble.uniform(0, 0.2))
        lost.append(placed.n_lost)
        at.append(placed.captured_at)
    assert sum(lost) == pytest.approx(1.2 * RATE, abs=0.05 * RATE)
    (noticed,) = (i for i, n in enumerate(lost) if n)
    assert 100 <= noticed <= 150
    assert at[-1] + 100_000 == pytest.approx(clock.wall(), abs=100_000)


def test_a_hiccup_that_is_made_up_for_loses_nothing() -> None:
    """A second and a half of nothing, then all of it at once."""
    clock = FakeClock()
    anchor = begin(clock)
    for i in range(300):
        clock.advance(1.6 if i == 100 else 0.0 if 100 < i < 116 else 0.1)
        assert anchor.place(BLOCK, clock.monotonic()).n_lost == 0


def test_after_an_interruption_the_count_goes_on_at_the_new_rate() -> None:
    """Five seconds without the device are that many samples of its new rate."""
    clock = FakeClock()
    anchor = begin(clock)
    ended_at = clock.wall()
    clock.advance(5)
    placed = anchor.resume(44_100, 4_410, clock.monotonic())
    assert placed.n_lost == pytest.approx(4.9 * 44_100, abs=1)
    assert placed.captured_at == pytest.approx(ended_at + 4_900_000, abs=20)
    clock.advance(0.1)
    later = anchor.place(4_410, clock.monotonic())
    assert later.captured_at == pytest.approx(placed.captured_at + 100_000, abs=1)


def test_a_device_faster_than_it_says_is_noticed() -> None:
    """44.1 kHz announced, 48 kHz sent: the count runs ahead by 8.8 %."""
    clock = FakeClock()
    anchor = Anchor(clock, 44_100, BLOCK, clock.monotonic())
    for _ in range(200):
        clock.advance(0.1)
        anchor.place(BLOCK, clock.monotonic())
    assert anchor.ahead_s == pytest.approx(20 * 0.088, rel=0.1)


@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 30), st.integers(1, RATE), st.booleans()), min_size=1, max_size=200
    )
)
def test_instants_never_go_back(arrivals: list[tuple[float, int, bool]]) -> None:
    """Whatever the device does, an instant is given once, but for the slew of 0.1 %."""
    clock = FakeClock()
    anchor = begin(clock)
    ended_at = clock.wall()
    for wait_s, n, overflowed in arrivals:
        clock.advance(wait_s)
        placed = anchor.place(n, clock.monotonic(), overflowed=overflowed)
        duration = n * 1_000_000 / RATE
        assert placed.captured_at >= ended_at - 1
        ended_at = placed.captured_at + round(duration * 0.999)
