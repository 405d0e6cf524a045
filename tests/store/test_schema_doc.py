"""docs/schema.md: its tables are the real ones, and its queries run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, inspect, text

from fieldstation.records import ClipState, Hearing, Quarantined
from fieldstation.store import log_tables, station_tables
from fieldstation.store.database import Database
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.store.examples import DAWN, MINUTE, detection, event, image, interval, message

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
LOG_PAGE, STATION_PAGE = PAGE.split("\n## station.db\n")
QUERY = re.compile(r"^(\S[^\n]*):\n\n```sql\n(.*?)```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
HOUR = 60 * MINUTE
DAY = 24 * HOUR

BLUE_TIT = {"scientific_name": "Cyanistes caeruleus", "common_name": "Blue Tit"}
ROBIN = {"scientific_name": "Erithacus rubecula", "common_name": "Robin"}

CLIP = "00000000-0000-0000-0000-000000000001.flac"
LOG_ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "The last ten detections": [
        ("2026-05-02", "06:12:07", "garden", "Blue Tit", 0.875),
        ("2026-05-01", "07:12:07", "garden", "Great Tit", 0.55),
        ("2026-05-01", "06:12:09", "pond", "Great Tit", 0.875),
        ("2026-05-01", "06:12:07", "garden", "Great Tit", 0.875),
        ("2026-05-01", "06:11:07", "garden", "Robin", 0.875),
    ],
    "Species of one day, most heard first": [("Great Tit", 3, 0.875), ("Robin", 1, 0.875)],
    "The same of a month, of all stations together": [
        ("Parus major", 3, 1),
        ("Cyanistes caeruleus", 1, 1),
        ("Erithacus rubecula", 1, 1),
    ],
    "The first day of each species in a year (arrivals)": [
        ("Erithacus rubecula", "2026-05-01"),
        ("Parus major", "2026-05-01"),
        ("Cyanistes caeruleus", "2026-05-02"),
    ],
    "At which hours a species calls in a month": [("06", 1), ("07", 1)],
    "Who sings first each morning of a week (dawn chorus)": [
        ("2026-05-01", "06:11:07", "Robin"),
        ("2026-05-02", "06:12:07", "Blue Tit"),
    ],
    "Hours heard and lost in a month, by cause": [
        ("garden", "heard", "", 2.0),
        ("garden", "lost", "microphone", 0.5),
        ("pond", "heard", "", 0.5),
    ],
    "Detections for each hour really heard in a month: numbers that compare between stations": [
        ("garden", 2.0, 2.0),
        ("pond", 0.5, 2.0),
    ],
    "The same bird heard by another station within ten seconds, on one day": [
        ("garden", "pond", "Parus major", 2.0)
    ],
    "How long a detection took from the bird to the log in a week": [
        ("2026-05-01", 85_219.0, 86_460.0),
        ("2026-05-02", 0.0, 0.0),
    ],
    "Where a clip of a week exists, to listen to the doubtful ones first": [
        ("Great Tit", 0.55, CLIP)
    ],
    "The newest pictures, with who was heard": [
        ("2026-05-01", "06:12:07", "Great Tit", 0.875, "2026-05-01/picture.png")
    ],
    "What cannot be painted, and why": [("Cyanistes caeruleus", "no blue left", 1)],
    "What did not fit, and why": [("fieldstation/pond/detection", "no JSON", 1, 1)],
}
STATION_ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "What waits for its receipt, and since when": [
        (2, "fieldstation/garden/detection", "2025-06-15T15:06:40Z"),
        (3, "fieldstation/garden/detection", "2025-06-15T15:07:40Z"),
    ],
    "Events without a clip, and why": [("off", 1), ("withheld", 1)],
}


def queries(page: str) -> dict[str, str]:
    """Return each example's SQL by the sentence before it."""
    return dict(QUERY.findall(page))


def documented(page: str) -> dict[str, list[str]]:
    """Return the columns that a page describes, by table."""
    return {
        name: [line.split("|")[1].strip() for line in body.splitlines() if line.startswith("| ")][
            1:
        ]
        for name, body in TABLE.findall(page)
    }


def columns(metadata: MetaData) -> dict[str, list[str]]:
    return {table.name: table.columns.keys() for table in metadata.sorted_tables}


def answer(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [
            tuple(float(value) if "Decimal" in type(value).__name__ else value for value in row)
            for row in connection.execute(text(sql))
        ]


@pytest.fixture
def small_log(log: LogStore) -> LogStore:
    """Two stations, three species, two days, some time lost, one message refused."""
    log.record(
        [
            detection(1),
            detection(2, started_at=DAWN + HOUR, ended_at=DAWN + HOUR, probability=0.55),
            detection(3, started_at=DAWN + DAY, ended_at=DAWN + DAY, **BLUE_TIT, clip=None),
            detection(4, started_at=DAWN - MINUTE, ended_at=DAWN - MINUTE, **ROBIN, clip=None),
            detection(5, station="pond", station_key="k2", started_at=DAWN + 2_000_000, clip=None),
        ],
        DAWN + DAY,
    )
    lost = interval(DAWN + HOUR, 1800.0, state=Hearing.LOST, cause="microphone")
    log.record_coverage("garden", "k1", [interval(DAWN, 7200.0), lost])
    log.record_coverage("pond", "k2", [interval(DAWN, 1800.0)])
    log.quarantine(Quarantined(DAWN, "fieldstation/pond/detection", b"{", "no JSON"))
    paint(log)
    return log


def paint(log: LogStore) -> None:
    """Let one event have its picture, and another be parked."""
    heard = [detection(1), detection(3, started_at=DAWN + DAY, **BLUE_TIT)]
    with log.database.write() as connection:
        JobMaker(JobPolicy()).make(connection, heard, DAWN)
    jobs = Jobs(lambda: log.database, lambda: DAWN)
    tit, blue_tit = jobs.claim("worker", 2)
    jobs.finish(tit, "worker", image(1, file="2026-05-01/picture.png"))
    jobs.fail(blue_tit, "worker", "no blue left", for_good=True)


def test_every_query_has_its_answer() -> None:
    """None is written without one, and the page lost none."""
    assert queries(LOG_PAGE).keys() == LOG_ANSWERS.keys()
    assert queries(STATION_PAGE).keys() == STATION_ANSWERS.keys()


@pytest.mark.parametrize("title", queries(LOG_PAGE))
def test_a_query_over_the_log_answers(small_log: LogStore, title: str) -> None:
    """On both databases, with the answer that the sentence before it promises."""
    assert answer(small_log.database, queries(LOG_PAGE)[title]) == LOG_ANSWERS[title]


@pytest.mark.parametrize("title", queries(STATION_PAGE))
def test_a_query_over_station_db_answers(store: StationStore, clock: FakeClock, title: str) -> None:
    """With the answer that the sentence before it promises."""
    store.record_event(event(1), message, ClipState.WITHHELD)
    store.record_event(event(2), message, ClipState.WRITTEN)
    store.confirm([str(event(1).id)])
    clock.advance(60)
    store.record_event(event(3), message, ClipState.OFF)
    assert answer(store.database, queries(STATION_PAGE)[title]) == STATION_ANSWERS[title]


def test_every_column_of_the_log_is_described(log: LogStore) -> None:
    """Tables and view, column by column in their order, nothing else."""
    with log.database.read() as connection:
        view = [column["name"] for column in inspect(connection).get_columns("detection_view")]
    expected = columns(log_tables.METADATA) | {"detection_view": view}
    assert documented(LOG_PAGE) == expected


def test_every_column_of_station_db_is_described() -> None:
    """Tables, column by column in their order, nothing else."""
    assert documented(STATION_PAGE) == columns(station_tables.METADATA)
