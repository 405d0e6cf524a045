"""How near events come to calls is told where there are events, and where there are none."""

from __future__ import annotations

import pytest

from bench.onsets import Heard, summary


def test_errors_are_told_in_medians_and_shares() -> None:
    """One call heard half a second late, one never."""
    found = summary([Heard(0.5, -0.25, 1.25, 1.25, 2.0), None])
    assert found["n_heard"] == 1
    assert found["median_abs_onset_error_s"] == 0.5
    assert found["share_of_calls_in_events"] == pytest.approx(0.625)
    assert found["share_of_events_that_is_call"] == 1.0


def test_nothing_heard_is_no_error() -> None:
    """A level at which no call becomes an event ends no measurement."""
    assert summary([None, None]) == {"n_heard": 0}
