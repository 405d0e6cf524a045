"""The log: detections, coverage, daily roll-up, quarantine; on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, text

from fieldstation.records import Detection, Hearing, Interval, Quarantined
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.log_db import LogStore, Outcome
from fieldstation.store.log_tables import COVERAGE, DAILY, DETECTIONS, QUARANTINE
from fieldstation.store.query import Filter, detections
from tests.postgres import cut_clients
from tests.store.examples import DAWN, MINUTE, detection, interval

NEW, SAME, CONFLICT, UNFIT = Outcome.NEW, Outcome.SAME, Outcome.CONFLICT, Outcome.UNFIT


def rows(log: LogStore, query: Any) -> list[dict[str, Any]]:
    with log.database.read() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def test_a_detection_comes_back_as_it_was(log: LogStore) -> None:
    """Every field survives, absent ones too."""
    bare = detection(
        2,
        started_at=DAWN - 1,
        latitude=None,
        longitude=None,
        place=None,
        clip=None,
        source=None,
        embedding=None,
    )
    assert log.record([detection(1), bare], DAWN) == [NEW, NEW]
    assert list(detections(log, Filter())) == [detection(1), bare]


def test_the_same_again_writes_nothing(log: LogStore) -> None:
    """In a later batch, in the same batch, or in other circumstances: one row, counted once."""
    elsewhere = detection(
        1,
        sequence=99,
        station_key="k2",
        common_name="Kohlmeise",
        source="other.flac",
        clip=None,
        embedding=None,
        probability=0.8752,
    )
    assert log.record([detection(1), detection(1)], DAWN) == [NEW, SAME]
    assert log.record([elsewhere, detection(2)], DAWN + 1) == [SAME, NEW]
    assert [row["received_at"] for row in rows(log, select(DETECTIONS))] == [DAWN, DAWN + 1]
    assert [row["n"] for row in rows(log, select(DAILY))] == [2]
    assert log.quarantined() == []


def test_the_first_of_two_contents_wins(log: LogStore) -> None:
    """The other is in quarantine, with what differs; a third time it is only counted."""
    other = detection(1, probability=0.5, scientific_name="Cyanistes caeruleus")
    assert log.record([detection(1), other], DAWN) == [NEW, CONFLICT]
    assert log.record([other, other], DAWN + 1) == [CONFLICT, CONFLICT]
    assert list(detections(log, Filter())) == [detection(1)]
    (kept,) = log.quarantined()
    assert kept.topic == "fieldstation/garden/detection"
    assert kept.reason == (
        "event_id is in the log with other content: "
        "scientific_name is Parus major there, Cyanistes caeruleus here; "
        "probability is 0.875 there, 0.5 here"
    )
    assert json.loads(kept.payload)["probability"] == 0.5
    assert [row["n_seen"] for row in rows(log, select(QUARANTINE))] == [3]
    assert [row["n"] for row in rows(log, select(DAILY))] == [1]


def test_one_bad_row_loses_no_other(log: LogStore) -> None:
    """What the tables cannot hold is set aside with the reason."""
    batch = [detection(1), detection(2, timezone="Mars/Olympus"), detection(3, place="\0")]
    assert log.record([*batch, detection(4)], DAWN) == [NEW, UNFIT, UNFIT, NEW]
    assert [kept.reason for kept in log.quarantined()] == [
        "place holds a character that is no text",
        "timezone 'Mars/Olympus' gives its instants no date: "
        "'No time zone found with key Mars/Olympus'",
    ]


def test_an_empty_batch_is_nothing(log: LogStore) -> None:
    """No rows, no outcome."""
    assert log.record([], DAWN) == []


def test_a_large_batch_is_one_statement_each(log: LogStore) -> None:
    """Five hundred detections, some known, keep their outcomes in order."""
    log.record([detection(n) for n in range(0, 500, 2)], DAWN)
    outcomes = log.record([detection(n) for n in range(500)], DAWN)
    assert outcomes == [SAME, NEW] * 250


def test_a_day_is_the_stations_own(log: LogStore) -> None:
    """Just before and after midnight in Berlin are two days, though one in UTC."""
    evening = DAWN + round(17.75 * 60) * MINUTE  # 21:57 UTC, 23:57 in Berlin
    log.record([detection(1, started_at=evening), detection(2, started_at=DAWN)], DAWN)
    log.record([detection(3, started_at=evening + 5 * MINUTE, probability=1.0)], DAWN)
    log.record([detection(4, started_at=evening - MINUTE, probability=0.95)], DAWN)
    found = rows(log, select(DAILY).order_by(DAILY.c.local_date))
    assert [(day["local_date"], day["n"], day["max_probability"]) for day in found] == [
        ("2026-05-01", 3, 0.95),
        ("2026-05-02", 1, 1.0),
    ]
    assert (found[0]["first_at"], found[0]["last_at"]) == (DAWN, evening)


def test_the_view_tells_instants_in_words(log: LogStore) -> None:
    """UTC with all microseconds, and the station's own date and time."""
    log.record([detection(1)], DAWN + 1)
    (row,) = rows(log, text("SELECT * FROM detection_view"))
    assert row["started"] == "2026-05-01T04:12:07.250000Z"
    assert row["ended"] == "2026-05-01T04:12:10.250000Z"
    assert row["received"] == "2026-05-01T04:12:07.250001Z"
    assert (row["local_date"], row["local_time"]) == ("2026-05-01", "06:12:07")
    assert row["duration_s"] == 3.0
    assert isinstance(row["duration_s"], float)


def test_coverage_grows_and_never_shrinks(log: LogStore) -> None:
    """Messages may come twice and in any order."""
    lost = interval(DAWN + 9, 1.0, state=Hearing.LOST, cause="microphone")
    log.record_coverage("garden", "k1", [interval(duration_s=5), interval(duration_s=15), lost])
    log.record_coverage("garden", "k1", [interval(duration_s=10)])
    log.record_coverage("pond", "k2", [interval(duration_s=1)])
    log.record_coverage("pond", "k2", [])
    found = rows(log, select(COVERAGE).order_by(COVERAGE.c.station, COVERAGE.c.started_at))
    assert [(row["station"], row["duration_s"], row["cause"]) for row in found] == [
        ("garden", 15.0, ""),
        ("garden", 1.0, "microphone"),
        ("pond", 1.0, ""),
    ]


@pytest.mark.parametrize(
    ("key", "unfit"),
    [("k1", interval(run_id="\0")), ("k1", interval(duration_s=float("nan"))), ("\0", interval())],
)
def test_coverage_that_does_not_fit_is_set_aside(log: LogStore, key: str, unfit: Interval) -> None:
    """It stops no other, and is found in quarantine."""
    good = interval(DAWN + 1)
    log.record_coverage("garden", key, [unfit, good])
    assert len(rows(log, select(COVERAGE))) == (0 if key == "\0" else 1)
    assert {kept.topic for kept in log.quarantined()} == {"fieldstation/garden/coverage"}


def test_the_quarantine_keeps_the_newest_and_counts_the_rest(log_url: str) -> None:
    """A station that sends rubbish for years fills no disk."""
    log = LogStore(log_url, quarantine_limit=3)
    for number in range(5):
        log.quarantine(Quarantined(DAWN + number, "t", b"%d" % number, "no JSON"))
    assert [kept.payload for kept in log.quarantined()] == [b"4", b"3", b"2"]
    assert log.n_dropped() == 2
    log.quarantine(Quarantined(DAWN, "t", b"9", "no JSON"))
    assert log.n_dropped() == 3
    assert [kept.payload for kept in log.quarantined(limit=1)] == [b"9"]
    log.close()


def test_a_quarantined_message_is_cut_and_spelled(log: LogStore) -> None:
    """Any payload, topic and reason can be kept; two that differ after the cut are two."""
    for last in (b"a", b"b"):
        log.quarantine(Quarantined(DAWN, "t\0", b"x" * 70_000 + last, "bad \ud800"))
    assert len(log.quarantined()) == 2
    kept = log.quarantined()[0]
    assert (kept.topic, len(kept.payload), kept.reason) == ("t\\0", 65_536, "bad \\ud800")
    assert {row["n_bytes"] for row in rows(log, select(QUARANTINE))} == {70_001}


def test_a_server_that_went_away_is_named(postgres_url: str) -> None:
    """A port where nobody listens: one line with the url, without its password."""
    url = postgres_url.replace("fieldstation@", "fieldstation:secret@")
    url = url[: url.rindex(":") + 1] + "1/x"
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        LogStore(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_restarted_server_costs_no_batch(postgres_url: str) -> None:
    """A connection that was cut while idle is replaced."""
    log = LogStore(postgres_url)
    log.record([detection(1)], DAWN)
    assert cut_clients(postgres_url) == 1
    assert log.record([detection(2)], DAWN) == [NEW]
    log.close()


RECORDING_CHILD = """
import sys
from fieldstation.store.log_db import LogStore
from tests.store.examples import DAWN, detection

log = LogStore(sys.argv[1], timeout_s=30)
outcomes = []
for first in range(int(sys.argv[2]), int(sys.argv[2]) + 300, 20):
    outcomes += log.record([detection(n) for n in range(first, first + 20)], DAWN)
print(" ".join(outcomes))
"""


def test_two_loggers_at_once_write_each_event_once(log_url: str) -> None:
    """Two processes make the tables and insert overlapping events: one row and one count each."""
    root = Path(__file__).parents[2]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RECORDING_CHILD, log_url, first],
            stdout=subprocess.PIPE,
            cwd=root,
            text=True,
        )
        for first in ("0", "100")
    ]
    said = Counter(word for child in children for word in child.communicate()[0].split())
    assert [child.returncode for child in children] == [0, 0]
    assert said == {"new": 400, "same": 200}
    log = LogStore(log_url)
    assert len(list(detections(log, Filter()))) == 400
    assert [row["n"] for row in rows(log, select(DAILY))] == [400]
    log.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), max_size=8), max_size=5
    )
)
def test_any_order_and_repetition_gives_the_same_log(
    fresh: Callable[[str], AbstractContextManager[Path]], batches: list[list[tuple[int, int]]]
) -> None:
    """The first content of each id is there once, and the roll-up counts what is there."""
    first: dict[int, Detection] = {}
    with fresh("log.db") as path:
        log = LogStore(str(path))
        for batch in batches:
            expected = []
            sent = [detection(n, started_at=DAWN + day * 1440 * MINUTE) for n, day in batch]
            for (number, _), one in zip(batch, sent, strict=True):
                expected.append(
                    NEW if number not in first else SAME if first[number] == one else CONFLICT
                )
                first.setdefault(number, one)
            assert log.record(sent, DAWN) == expected
        stored = {UUID(one.event_id).int: one for one in detections(log, Filter())}
        assert stored == first
        days = Counter((one.started_at - DAWN) // (1440 * MINUTE) for one in first.values())
        assert sorted(row["n"] for row in rows(log, select(DAILY))) == sorted(days.values())
        log.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.text(st.characters(), max_size=300),
    place=st.none() | st.text(st.characters(), max_size=50),
    number=st.integers(-(2**70), 2**70),
    real=st.floats(),
)
def test_no_value_stops_the_log(
    log: LogStore, name: str, place: str | None, number: int, real: float
) -> None:
    """Whatever a message's schema let through is either kept or set aside."""
    with log.database.write() as connection:
        connection.execute(DETECTIONS.delete())
    strange = replace(
        detection(1), scientific_name=name, place=place, sequence=number, latitude=real
    )
    (outcome,) = log.record([strange], DAWN)
    assert outcome in (NEW, UNFIT)
    assert list(detections(log, Filter())) == ([strange] if outcome is NEW else [])


def test_a_long_recording_that_is_known_is_compared_whole(log: LogStore) -> None:
    """However few variables this SQLite allows a statement: by default 32,766."""
    if log.database.engine.dialect.name == "sqlite":
        event.listen(log.database.engine, "connect", allow_few_variables)
        log.database.engine.dispose()
    many = [detection(number) for number in range(2_100)]
    assert set(log.record(many, DAWN)) == {NEW}
    assert set(log.record(many, DAWN)) == {SAME}


def allow_few_variables(connection: sqlite3.Connection, _: object) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1_500)
