"""What the log's tables can hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.store.fit import as_text, misfit, misfit_detection, misfit_values
from tests.store.examples import detection, interval


def test_an_ordinary_detection_and_interval_fit() -> None:
    """Nothing is said of what fits."""
    assert misfit_detection(detection()) is None
    assert misfit_values(interval()) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probability": math.nan}, "probability is nan"),
        ({"probability": 1.5}, "probability is 1.5; it lies in 0..1"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"latitude": math.inf}, "latitude is inf"),
        ({"timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus'"),
        ({"timezone": "Europe"}, "timezone 'Europe'"),
        ({"timezone": "../etc"}, "timezone '../etc'"),
        ({"timezone": ""}, "timezone ''"),
        ({"started_at": 10**18}, "gives its instants no date"),
        ({"ended_at": -(10**18)}, "gives its instants no date"),
        ({"sequence": 2**63}, "sequence is 9223372036854775808"),
        ({"n_windows": 2**31}, "n_windows is 2147483648"),
        ({"place": "a\0b"}, "place holds a character that is no text"),
        ({"place": "\ud800"}, "place holds a character that is no text"),
        ({"scientific_name": "x" * 251}, "scientific_name has 251 characters; at most 250"),
        ({"source": "x" * 4_097}, "source has 4097 characters; at most 4096"),
    ],
)
def test_the_reason_names_field_and_value(changes: dict[str, Any], said: str) -> None:
    """One line says what does not fit."""
    reason = misfit_detection(detection(**changes))
    assert reason is not None
    assert said in reason
    assert "\n" not in reason


@given(st.text(st.characters(), max_size=50))
def test_what_fits_is_written_as_it_is(text: str) -> None:
    """Anything can be spelled as text; what fits needs no spelling."""
    spelled = as_text(text)
    assert spelled.encode().decode() == spelled
    assert "\0" not in spelled
    if misfit("place", text) is None:
        assert spelled == text
