"""Questions people ask of the log."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from fieldstation.records import Detection
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import (
    MOST_UNITED,
    Filter,
    SpeciesCount,
    detections,
    matches,
    species,
)
from tests.store.examples import DAWN, MINUTE, detection

DAY = 24 * 60 * MINUTE
GREAT_TIT = detection(1)
BLUE_TIT = detection(
    2,
    scientific_name="Cyanistes caeruleus",
    common_name="Blue Tit",
    started_at=DAWN + MINUTE,
    probability=0.6,
)
OWL = detection(
    3,
    scientific_name="Strix aluco",
    common_name="Öster-Eule",
    station="pond",
    started_at=DAWN + 2 * MINUTE,
)
LATER_TIT = detection(4, common_name="Kohlmeise", started_at=DAWN + DAY, probability=0.95)
ALL = [LATER_TIT, OWL, BLUE_TIT, GREAT_TIT]


@pytest.fixture
def heard(log: LogStore) -> LogStore:
    """A log with four detections of three species by two stations."""
    log.record(ALL, DAWN)
    return log


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ALL),
        (Filter(limit=2), ALL[:2]),
        (Filter(species="parus MAJOR"), [LATER_TIT, GREAT_TIT]),
        (Filter(species="great tit"), [LATER_TIT, GREAT_TIT]),
        (Filter(species="tit"), [LATER_TIT, BLUE_TIT, GREAT_TIT]),
        (Filter(species="öster-eule"), [OWL]),
        (Filter(species="%"), []),
        (Filter(species="reat"), []),
        (Filter(since=DAWN + MINUTE), ALL[:3]),
        (Filter(until=DAWN + MINUTE), [GREAT_TIT]),
        (Filter(since=DAWN + MINUTE, until=DAWN + DAY), [OWL, BLUE_TIT]),
        (Filter(min_probability=0.875), [LATER_TIT, OWL, GREAT_TIT]),
        (Filter(station="pond"), [OWL]),
        (Filter(station="pond", species="tit"), []),
    ],
)
def test_a_filter_chooses_newest_first(
    heard: LogStore, wanted: Filter, expected: list[Detection]
) -> None:
    """Every condition by itself and together; names by any word, in either case."""
    assert list(detections(heard, wanted)) == expected


def test_at_the_same_instant_the_order_is_fixed(log: LogStore) -> None:
    """Two species in one window come in the same order every time."""
    log.record([detection(n) for n in (2, 1, 3)], DAWN)
    assert list(detections(log, Filter())) == [detection(n) for n in (3, 2, 1)]


def test_more_species_than_one_question_can_unite(log: LogStore) -> None:
    """SQLite takes 500 of them; a word's beginning may mean more."""
    birds = [f"Avis {number:03d}" for number in range(MOST_UNITED + 1)]
    log.record(
        [
            detection(n, scientific_name=bird, common_name=f"Bird {n}", started_at=DAWN + n)
            for n, bird in enumerate(birds)
        ],
        DAWN,
    )
    newest = detections(log, Filter(species="bird", limit=2))
    assert [d.scientific_name for d in newest] == birds[:-3:-1]


def test_species_are_counted(heard: LogStore) -> None:
    """Most heard first, under the name that was told last."""
    assert species(heard, Filter()) == [
        SpeciesCount("Parus major", "Kohlmeise", 2, DAWN, DAWN + DAY, 0.95),
        SpeciesCount("Cyanistes caeruleus", "Blue Tit", 1, DAWN + MINUTE, DAWN + MINUTE, 0.6),
        SpeciesCount("Strix aluco", "Öster-Eule", 1, DAWN + 2 * MINUTE, DAWN + 2 * MINUTE, 0.875),
    ]
    assert [one.n for one in species(heard, Filter(until=DAWN + MINUTE))] == [1]
    assert species(heard, Filter(species="magpie")) == []


def test_a_long_answer_is_not_held_in_memory(heard: LogStore) -> None:
    """The first row is there although the rest was not asked for, and the log stays usable."""
    answer = detections(heard, Filter())
    assert next(answer) == LATER_TIT
    answer.close()
    assert len(list(detections(heard, Filter()))) == 4


@pytest.mark.parametrize(
    ("typed", "is_meant"),
    [
        ("Great Tit", True),
        ("great  tit ", True),
        ("t", True),
        ("major", True),
        ("it", False),
        ("Great Tits", False),
    ],
)
def test_a_word_may_be_left_unfinished(typed: str, is_meant: bool) -> None:
    """What is typed is the beginning of a word of either name."""
    assert matches(typed, "Parus major", "Great Tit") is is_meant


def test_a_species_that_comes_between_two_looks_is_no_error(log: LogStore, log_url: str) -> None:
    """An answer of several queries is of one state of the log."""
    log.record([GREAT_TIT], DAWN)
    writer = LogStore(log_url)

    def hear_another(_: object, __: object, statement: str, *___: object) -> None:
        if "FROM names" in statement:
            writer.record([BLUE_TIT], DAWN)

    event.listen(log.database.engine, "after_cursor_execute", hear_another)
    found = species(log, Filter())
    writer.close()
    assert [count.scientific_name for count in found] in (["Parus major"], [])
    event.remove(log.database.engine, "after_cursor_execute", hear_another)
    assert len(species(log, Filter())) == 2
