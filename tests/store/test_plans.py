"""No question that is shipped reads a whole table: judged by SQLite's own plans.

A plan is the same for ten rows and ten million: no log is analysed, so it is chosen by the tables
and indices alone. `python -m bench.scale` measures what comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event

from fieldstation.store.coverage_query import coverage
from fieldstation.store.log_db import LogStore
from fieldstation.store.picture_query import PAINTED, pictures
from fieldstation.store.query import Filter, detections, species
from tests.store.examples import DAWN, MINUTE, detection
from tests.store.test_schema_doc import LOG_PAGE, queries

READS_ALL = re.compile(r"SCAN (detections|daily|totals|everywhere|coverage|jobs|a|b)\b(?! USING)")
READS_IMAGES = re.compile(r"SCAN images\b(?! USING)")
"""But by their own number, from the newest on, as a documented query does"""
DAY = 24 * 60 * MINUTE
QUESTIONS: dict[str, Callable[[LogStore], object]] = {
    "newest": lambda log: list(detections(log, Filter(limit=20))),
    "newest of some species": lambda log: list(detections(log, Filter(species="t", limit=20))),
    "all of some species": lambda log: list(detections(log, Filter(species="t"))),
    "newest of a station": lambda log: list(detections(log, Filter(station="garden", limit=20))),
    "newest probable": lambda log: list(detections(log, Filter(min_probability=0.9, limit=20))),
    "of a day": lambda log: list(detections(log, Filter(since=DAWN, until=DAWN + DAY))),
    "species": lambda log: species(log, Filter()),
    "species of a time": lambda log: species(log, Filter(since=DAWN + 1, until=DAWN + DAY)),
    "species of a station": lambda log: species(log, Filter(station="garden", since=DAWN + 1)),
    "probable species": lambda log: species(log, Filter(min_probability=0.9, species="t")),
    "pictures": lambda log: list(pictures(log, Filter(limit=20))),
    "pictures of some species": lambda log: list(pictures(log, Filter(species="t", limit=20))),
    "pictures of a station": lambda log: list(pictures(log, Filter(station="garden", limit=20))),
    "pictures that are there": lambda log: list(pictures(log, Filter(limit=20), [PAINTED])),
    "pictures of a day": lambda log: list(pictures(log, Filter(since=DAWN, until=DAWN + DAY))),
    "coverage": lambda log: coverage(log, DAWN, DAWN + DAY),
    "coverage of a station": lambda log: coverage(log, DAWN, DAWN + DAY, "garden"),
}


def plan(log: LogStore, sql: str, parameters: Any = ()) -> list[str]:
    """Return the steps in which SQLite answers a query."""
    with log.database.read() as connection:
        steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        return [step[3] for step in steps]


def asked(log: LogStore, question: Callable[[LogStore], object]) -> list[tuple[str, Any]]:
    """Return the statements with which a question is answered."""
    found: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.startswith(("SELECT", "WITH")):
            found.append((sql, parameters))

    event.listen(log.database.engine, "before_cursor_execute", note)
    question(log)
    event.remove(log.database.engine, "before_cursor_execute", note)
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogStore]:
    """A log with something on either side of an end; nobody here changes it."""
    log = LogStore(str(tmp_path_factory.mktemp("plans") / "log.db"))
    log.record([detection(n, started_at=DAWN + (n - 5) * MINUTE) for n in range(10)], DAWN)
    yield log
    log.close()


@pytest.mark.parametrize("title", queries(LOG_PAGE))
def test_a_documented_query_reads_no_table_through(log: LogStore, title: str) -> None:
    """Whoever copies it onto ten million rows is answered at once."""
    steps = plan(log, queries(LOG_PAGE)[title])
    assert [step for step in steps if READS_ALL.match(step)] == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_command_s_question_reads_no_table_through(log: LogStore, question: str) -> None:
    """Whatever the conditions that a person gives."""
    found = asked(log, QUESTIONS[question])
    assert found
    for sql, parameters in found:
        steps = plan(log, sql, parameters)
        assert [s for s in steps if READS_ALL.match(s) or READS_IMAGES.match(s)] == []


def test_a_query_that_reads_everything_is_noticed(log: LogStore) -> None:
    """Or the tests above would let anything through."""
    steps = plan(log, "SELECT count(*) FROM detections WHERE place = 'hedge'")
    assert READS_ALL.match(steps[0])
