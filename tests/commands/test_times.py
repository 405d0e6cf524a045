"""Times as people write them."""

from __future__ import annotations

import pytest

from fieldstation.clock import format_instant, parse_instant
from fieldstation.commands.times import TimeError, parse_when

NOW = parse_instant("2026-03-29T10:00:00Z")  # the day on which Berlin's clocks go forward


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("today", "2026-03-28T23:00:00"),
        ("yesterday", "2026-03-27T23:00:00"),
        ("90m", "2026-03-29T08:30:00"),
        ("2d", "2026-03-27T10:00:00"),
        ("2026-03-29", "2026-03-28T23:00:00"),
        ("2026-03-29T04:00", "2026-03-29T02:00:00"),
        ("2026-03-29T04:00Z", "2026-03-29T04:00:00"),
        ("2026-03-29T04:00+05:30", "2026-03-28T22:30:00"),
    ],
)
def test_a_time_is_local_unless_it_says_otherwise(text: str, instant: str) -> None:
    """Days begin at local midnight, also on the day the clocks change."""
    assert format_instant(parse_when(text, "Europe/Berlin", NOW)) == f"{instant}.000000Z"


@pytest.mark.parametrize("text", ["", "tomorrowish", "2026-13-01", "5y"])
def test_what_names_no_time_is_refused_with_the_forms(text: str) -> None:
    """The text tells what can be written."""
    with pytest.raises(TimeError, match="names no time: write today"):
        parse_when(text, "UTC", NOW)


@pytest.mark.parametrize("text", ["9999999h", "999999w", "9" * 5_000 + "d"])
def test_what_is_too_far_back_is_said_to_be(text: str) -> None:
    """It names a time, which nobody heard anything at."""
    with pytest.raises(TimeError, match=r"^9+[hwd] ago is too far back, before 1970"):
        parse_when(text, "UTC", NOW)
