"""The roll-ups: at every commit what counting the rows says, whatever came in which order."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from fieldstation.clock import local
from fieldstation.records import Detection
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import DAILY, DETECTIONS, EVERYWHERE, NAMES, TOTALS
from fieldstation.store.query import Filter, SpeciesCount, species
from fieldstation.store.totals import EDGES, EVERYBODY, band_of, count_anew
from tests.store.examples import DAWN, MINUTE, detection

HOUR = 60 * MINUTE
DAY = 24 * HOUR
BIRDS = [
    ("Parus major", "Great Tit"),
    ("Parus major", "Kohlmeise"),
    ("Strix aluco", "Tawny Owl"),
    ("Turdus merula", "Blackbird"),
]
PLACES = [("garden", "Europe/Berlin"), ("pond", "Asia/Tokyo"), ("dune", "America/Los_Angeles")]
QUICK = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rows(log: LogStore, table: Any) -> list[dict[str, Any]]:
    with log.database.read() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def counted(log: LogStore) -> dict[str, dict[tuple[Any, ...], Any]]:
    """Return what the roll-ups should hold, from the rows alone."""
    groups: dict[str, dict[tuple[Any, ...], list[Any]]] = {
        name: defaultdict(list) for name in ("daily", "totals", "everywhere", "names")
    }
    for row in rows(log, DETECTIONS):
        who, bird, date = row["station"], row["scientific_name"], row["started_local"][:10]
        band = max(edge for edge in EDGES if edge <= row["probability"])
        groups["daily"][who, date, bird].append(row)
        for key in ((date[:7], who), (date[:7], EVERYBODY), (date, EVERYBODY)):
            groups["totals"][(*key, bird, band)].append(row)
        for length in (10, 13):
            groups["everywhere"][row["started_local"][:length], bird].append(row)
        groups["names"][bird, row["common_name"]].append(row)
    return {
        "daily": {key: _sum(found) for key, found in groups["daily"].items()},
        "everywhere": {key: _sum(found) for key, found in groups["everywhere"].items()},
        "totals": {
            key: (*_sum(found), max(row["received_at"] for row in found))
            for key, found in groups["totals"].items()
        },
        "names": {
            key: max(row["started_at"] for row in found) for key, found in groups["names"].items()
        },
    }


def kept(log: LogStore) -> dict[str, dict[tuple[Any, ...], Any]]:
    """Return what the roll-ups hold."""
    sums = ("n", "max_probability", "first_at", "last_at")
    return {
        "daily": {
            (r["station"], r["local_date"], r["scientific_name"]): tuple(r[s] for s in sums)
            for r in rows(log, DAILY)
        },
        "everywhere": {
            (r["span"], r["scientific_name"]): tuple(r[s] for s in sums)
            for r in rows(log, EVERYWHERE)
        },
        "totals": {
            (r["span"], r["station"], r["scientific_name"], r["band"]): (
                *(r[s] for s in sums),
                r["received_at"],
            )
            for r in rows(log, TOTALS)
        },
        "names": {(r["scientific_name"], r["common_name"]): r["told_at"] for r in rows(log, NAMES)},
    }


def _sum(found: list[dict[str, Any]]) -> tuple[Any, ...]:
    times = [row["started_at"] for row in found]
    return len(found), max(row["probability"] for row in found), min(times), max(times)


def any_detection(number: int, chance: random.Random) -> Detection:
    """Return a detection anywhere in some weeks, often where two spans meet."""
    station, zone = chance.choice(PLACES)
    scientific_name, common_name = chance.choice(BIRDS)
    # DAWN lies four hours after the beginning of May, in UTC.
    at = DAWN + chance.choice(
        [chance.randrange(-40 * DAY, 40 * DAY), chance.randrange(-20 * HOUR, 20 * HOUR)]
    )
    return detection(
        number,
        station=station,
        timezone=zone,
        started_at=at,
        ended_at=at + 3_000_000,
        scientific_name=scientific_name,
        common_name=common_name,
        probability=chance.choice([chance.random(), chance.choice(EDGES), 1.0]),
        embedding=None,
    )


def matching(heard: Iterable[Detection], wanted: Filter) -> list[SpeciesCount]:
    """Return what `species` should answer, counted one by one."""
    named = {d.scientific_name: d.common_name for d in sorted(heard, key=lambda d: d.started_at)}
    found: dict[str, list[Detection]] = defaultdict(list)
    for d in heard:
        fits = (
            (wanted.since is None or d.started_at >= wanted.since)
            and (wanted.until is None or d.started_at < wanted.until)
            and (wanted.min_probability is None or d.probability >= wanted.min_probability)
            and wanted.station in (None, d.station)
            and (wanted.species is None or d.scientific_name.lower().startswith(wanted.species))
        )
        if fits:
            found[d.scientific_name].append(d)
    counts = [
        SpeciesCount(
            name,
            named[name],
            len(several),
            min(d.started_at for d in several),
            max(d.started_at for d in several),
            max(d.probability for d in several),
        )
        for name, several in found.items()
    ]
    return sorted(counts, key=lambda c: (-c.n, c.scientific_name))[: wanted.limit]


HEARD = [any_detection(n, random.Random(n)) for n in range(400)]


def extremes() -> list[int]:
    """Return the first and last instants of everybody's months and of some days."""
    spans: dict[str, list[int]] = defaultdict(list)
    for d in HEARD:
        date = f"{local(d.started_at, d.timezone):%Y-%m-%d}"
        spans[date[:7]].append(d.started_at)
        spans[date].append(d.started_at)
    chosen = [spans[name] for name in sorted(spans) if len(name) == 7 or len(spans[name]) > 20]
    return sorted(at for times in chosen for at in (min(times), max(times)))


INSTANTS = st.one_of(
    st.none(),
    st.integers(DAWN - 45 * DAY, DAWN + 45 * DAY),
    st.sampled_from([at + step for at in extremes() for step in (0, 1)]),
    st.integers(-40, 40).map(lambda n: DAWN - DAWN % DAY + n * DAY - 2 * HOUR),
)
FILTERS = st.builds(
    Filter,
    species=st.sampled_from([None, "parus", "strix", "nothing"]),
    since=INSTANTS,
    until=INSTANTS,
    min_probability=st.sampled_from([None, 0.0, 0.5, 0.9, 0.93, 0.99, 0.995, 1.0]),
    station=st.sampled_from([None, "garden", "pond", "elsewhere"]),
    limit=st.sampled_from([None, 2]),
)


@QUICK
@given(wanted=st.lists(FILTERS, min_size=5, max_size=5))
def test_any_question_for_counts_is_answered_as_if_rows_were_counted(
    heard: LogStore, wanted: list[Filter]
) -> None:
    """Stations of three zones, spans cut anywhere, probabilities between the bands' edges too."""
    for one in wanted:
        assert species(heard, one) == matching(HEARD, one)


def test_an_end_at_the_first_or_last_detection_of_a_span_is_exact(heard: LogStore) -> None:
    """One microsecond decides whether it is counted."""
    for at in extremes()[::3]:
        for one in (Filter(since=at + 1), Filter(until=at), Filter(until=at + 1)):
            assert species(heard, one) == matching(HEARD, one)


@pytest.fixture
def heard(log: LogStore) -> LogStore:
    """A log with four hundred detections, written a few at a time, out of order."""
    for first in range(0, len(HEARD), 100):
        log.record(HEARD[first : first + 100], DAWN + first)
    return log


def test_the_roll_ups_say_what_counting_says(heard: LogStore) -> None:
    """On both databases."""
    assert kept(heard) == counted(heard)


@QUICK
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=8), max_size=6
    )
)
def test_what_comes_twice_or_does_not_fit_is_not_counted(
    fresh: Callable[[str], AbstractContextManager[Path]],
    batches: list[list[tuple[int, int]]],
) -> None:
    """Repeated, contradictory, unfit, late and out of order: only rows count."""
    with fresh("log.db") as path:
        log = LogStore(str(path))
        for number, batch in enumerate(batches):
            log.record([_told(n, way) for n, way in batch], DAWN + number)
        assert kept(log) == counted(log)
        log.close()


def _told(number: int, way: int) -> Detection:
    """Return a detection as it is, under another name, with other content, unfit, or late."""
    found = any_detection(number, random.Random(number))
    changes: list[dict[str, Any]] = [
        {},
        {"common_name": "Other"},
        {"probability": 0.123},
        {"place": "\0"},
        {"event_id": f"late-{number}", "started_at": found.started_at - 400 * DAY},
    ]
    return replace(found, **changes[way])


@pytest.mark.parametrize("edge", EDGES)
def test_a_band_begins_with_its_edge(edge: float) -> None:
    """What is asked for at least is in it, as a person types it: 0.9 is in the band of 0.9."""
    assert band_of(edge) == float(f"{edge:g}")
    assert band_of(edge + 1e-12) == edge


def test_counting_anew_says_the_same(heard: LogStore) -> None:
    """After a repair, when a roll-up may lack something, or have too much."""
    before = kept(heard)
    with heard.database.write() as connection:
        connection.execute(update(TOTALS).values(n=7))
        connection.execute(delete(DAILY).where(DAILY.c.station == "pond"))
        connection.execute(update(NAMES).values(told_at=1))
        connection.execute(update(DETECTIONS).values(local_date=None))
        count_anew(connection)
    assert kept(heard) == before


def test_a_migration_counts_what_was_there(heard: LogStore, log_url: str) -> None:
    """A log of an earlier version has the same roll-ups as one that grew with them."""
    from alembic import command
    from alembic.config import Config

    from fieldstation.store.log_tables import SCHEMA

    config = Config()
    config.set_main_option("script_location", str(SCHEMA.migrations))
    config.set_main_option("path_separator", "os")
    before = kept(heard)
    with heard.database.write() as connection:
        config.attributes["connection"] = connection
        for table in ("totals", "everywhere", "names"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
        for index in ("detections_day", "detections_station_day", "daily_date"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        for index in ("coverage_long", "coverage_station", "jobs_ended_at", "jobs_newest"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        for index in ("started_at", "station", "species", "there"):
            connection.exec_driver_sql(f"DROP INDEX images_{index}")
        for column in ("started_at", "scientific_name"):
            connection.exec_driver_sql(f"ALTER TABLE images DROP COLUMN {column}")
        connection.exec_driver_sql("CREATE INDEX images_made_at ON images (made_at)")
        connection.exec_driver_sql("DROP VIEW detection_view")
        connection.exec_driver_sql("ALTER TABLE detections DROP COLUMN local_date")
        connection.exec_driver_sql("CREATE VIEW detection_view AS SELECT 1 AS one")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'log_0003'")
        command.upgrade(config, SCHEMA.head)
    assert kept(heard) == before
