"""Old detections leave the log: whole months, bit by bit, and out of the roll-ups with them."""

from __future__ import annotations

from dataclasses import replace

from fieldstation.store.log_db import LogStore
from fieldstation.store.query import Filter, detections, species
from fieldstation.store.retention import ROWS, forget, old_months
from tests.store.examples import DAWN, MINUTE, detection
from tests.store.test_totals import counted, kept

DAY = 24 * 60 * MINUTE
IN_MAY, IN_APRIL, IN_MARCH = DAWN, DAWN - 10 * DAY, DAWN - 40 * DAY


def test_whole_months_go_and_take_their_counts_along(log: LogStore) -> None:
    """What is left is counted as before; the month that the instant cuts stays whole."""
    for number, at in enumerate((IN_MARCH, IN_APRIL, IN_MAY)):
        heard = [(ROWS + 50) * number + n for n in range(ROWS + 50)]
        log.record([detection(n, started_at=at + n, probability=n % 10 / 10) for n in heard], DAWN)
    names = kept(log)["names"]
    assert forget(log.database, IN_APRIL, lambda: True) == 0  # all of it was received later
    assert forget(log.database, DAWN + 1, lambda: True) == 2 * (ROWS + 50)
    assert {d.started_at >= IN_MAY for d in detections(log, Filter())} == {True}
    assert kept(log) == counted(log)
    assert kept(log)["names"] == names


def test_a_month_that_was_received_lately_stays(log: LogStore) -> None:
    """Recordings of another year, replayed today, do not go within the hour."""
    log.record([detection(1, started_at=IN_MARCH)], received_at=IN_MAY)
    assert old_months(log.database, IN_MAY) == []
    assert old_months(log.database, IN_MAY + 1) == ["2026-03"]


def test_half_way_the_counts_are_those_of_the_rows(log: LogStore) -> None:
    """A kill between two transactions leaves nothing counted that is not there."""
    log.record([detection(n, started_at=IN_MARCH) for n in range(ROWS + 7)], IN_MARCH)
    assert forget(log.database, IN_MAY, lambda: False) == ROWS
    assert [one.n for one in species(log, Filter())] == [7]
    assert forget(log.database, IN_MAY, lambda: True) == 7
    assert species(log, Filter()) == []
    assert forget(log.database, IN_MAY, lambda: True) == 0


def test_what_comes_while_a_month_goes_is_kept(log: LogStore) -> None:
    """A late detection is a new row like any other, also of a month that went."""
    log.record([detection(n, started_at=IN_MARCH) for n in range(ROWS + 7)], IN_MARCH)
    late = replace(detection(9_999, started_at=IN_MARCH), common_name="Late")

    def tell_late() -> bool:
        log.record([late], IN_MAY)
        return True

    forget(log.database, IN_MAY, tell_late)
    assert [d.common_name for d in detections(log, Filter())] == ["Late"]
    for roll_up in ("daily", "totals", "everywhere"):
        assert kept(log)[roll_up] == counted(log)[roll_up]
    assert old_months(log.database, IN_MAY) == []
