"""Questions that people ask of the log's pictures, and the wish to have one painted again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    false,
    func,
    select,
)

from fieldstation.records import Detection, Image, JobState
from fieldstation.store.images import IMAGE_FIELDS
from fieldstation.store.job_maker import AGAIN, job_values
from fieldstation.store.log_db import DETECTION_FIELDS, LogStore
from fieldstation.store.log_tables import DETECTIONS, IMAGES, JOBS
from fieldstation.store.query import (
    ROWS_AT_ONCE,
    Filter,
    but_species,
    conditions,
    meant,
    newest_first,
)
from fieldstation.store.upsert import insert

Query = Select[Any] | CompoundSelect[Any]

PAINTED = "painted"
REMOVED = "removed"
"""Painted, and its file removed since"""
UNDONE = tuple(state.value for state in JobState if state is not JobState.DONE)
STATES = (PAINTED, REMOVED, *UNDONE)


@dataclass(frozen=True, slots=True)
class PictureRow:
    """A picture, or the wish for one."""

    detection: Detection
    state: str
    """One of `STATES`"""
    image: Image | None = None
    reason: str = ""
    """Why not, where there is none"""


def pictures(log: LogStore, wanted: Filter, states: Sequence[str] = STATES) -> Iterator[PictureRow]:
    """Yield what is not painted, then what is, each newest first, as it is read.

    Raises:
        StoreError: the log cannot be read.
    """
    undone = [state for state in states if state in UNDONE]
    with log.database.read() as connection:
        names = meant(connection, wanted)
        n = 0
        if undone:
            for row in _read(connection, _jobs(names, wanted, undone)):
                n += 1
                yield PictureRow(_detection(row), row.state, reason=row.reason or "")
        left = None if wanted.limit is None else wanted.limit - n
        if left != 0 and {PAINTED, REMOVED} & set(states):
            for row in _read(connection, _images(names, replace(wanted, limit=left), states)):
                yield _painted(row)


def ask_again(
    log: LogStore,
    wanted: Filter,
    states: Sequence[str],
    generator_id: str,
    room_for: int,
    now: int,
    event_ids: Sequence[str] = (),
) -> tuple[int, int]:
    """Queue events again, the newest first, as many as the queue has room for.

    Left out is what waits already, and what the present generator has painted unless its file is
    gone. An event without an embedding is painted from its species.

    Args:
        states: of their jobs and pictures; see `STATES`.
        generator_id: the present generator.
        room_for: jobs that may wait.
        event_ids: only these, also what is painted or was never to be.

    Returns:
        how many were queued, and how many more were wanted.
    """
    with log.database.write() as connection:
        told = conditions(connection, wanted)
        if event_ids:
            told.append(DETECTIONS.c.event_id.in_(list(event_ids)))
        else:
            told.append(_was_wanted(states))
        due = _due(told) if event_ids else _due([*told, _lacks_picture_of(generator_id)])
        n_due = _n(connection, due)
        n_due = n_due if wanted.limit is None else min(n_due, wanted.limit)
        n = min(n_due, max(0, room_for - _n(connection, _waiting())))
        newest = due.order_by(DETECTIONS.c.started_at.desc()).limit(n)
        for row in connection.execute(newest).all():
            _queue(connection, Detection(*row), now)
    return n, n_due - n


def _waiting() -> Select[Any]:
    undecided = JobState.QUEUED.value, JobState.CLAIMED.value
    return select(JOBS.c.event_id).where(JOBS.c.state.in_(undecided))


def _was_wanted(states: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that an event's job or picture is in one of the states."""
    event_id = DETECTIONS.c.event_id
    jobs = select(JOBS.c.event_id).where(JOBS.c.state.in_([s for s in states if s in UNDONE]))
    images = select(IMAGES.c.event_id).where(_is_in(states))
    return event_id.in_(jobs) | event_id.in_(images)


def _is_in(states: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a picture is in one of the states."""
    there = IMAGES.c.file.is_not(None)
    return (there if PAINTED in states else false()) | (~there if REMOVED in states else false())


def _lacks_picture_of(generator_id: str) -> ColumnElement[bool]:
    present = select(IMAGES.c.event_id).where(
        IMAGES.c.generator_id == generator_id, IMAGES.c.file.is_not(None)
    )
    return DETECTIONS.c.event_id.not_in(present)


def _due(told: list[ColumnElement[bool]]) -> Select[Any]:
    """Return the query of the events that meet conditions and do not wait already."""
    return select(*_columns()).where(*told, DETECTIONS.c.event_id.not_in(_waiting()))


def _n(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(select(func.count()).select_from(query.subquery())).scalar_one())


def _queue(connection: Connection, detection: Detection, now: int) -> None:
    statement = insert(connection, JOBS)
    values = job_values(detection, AGAIN, now)
    anew = {"worker": None, "lease_ends_at": None, "reason": None, "ended_at": None}
    again = statement.on_conflict_do_update(index_elements=["event_id"], set_={**values, **anew})
    connection.execute(again, values)


def _jobs(names: list[str] | None, wanted: Filter, states: Sequence[str]) -> Query:
    rows = (
        select(*_columns(), JOBS.c.state, JOBS.c.reason)
        .join(JOBS, JOBS.c.event_id == DETECTIONS.c.event_id)
        .where(*but_species(wanted, JOBS))
    )
    if names is not None:
        rows = rows.where(JOBS.c.scientific_name.in_(names))
    order = JOBS.c.started_at, JOBS.c.event_id
    return newest_first(rows, JOBS.c.state, states, order, wanted.limit)


def _images(names: list[str] | None, wanted: Filter, states: Sequence[str]) -> Query:
    images = [IMAGES.c[name].label(f"image_{name}") for name in IMAGE_FIELDS]
    rows = (
        select(*_columns(), *images, IMAGES.c.id)
        .join(IMAGES, IMAGES.c.event_id == DETECTIONS.c.event_id)
        .where(_is_in(states), *but_species(wanted, IMAGES))
    )
    order = IMAGES.c.started_at, IMAGES.c.id
    return newest_first(rows, IMAGES.c.scientific_name, names, order, wanted.limit)


def _columns() -> list[ColumnElement[Any]]:
    return [DETECTIONS.c[name] for name in DETECTION_FIELDS]


def _read(connection: Connection, query: Query) -> Iterator[Row[Any]]:
    yield from connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query)


def _detection(row: Row[Any]) -> Detection:
    return Detection(**{name: getattr(row, name) for name in DETECTION_FIELDS})


def _painted(row: Row[Any]) -> PictureRow:
    image = Image(**{name: getattr(row, f"image_{name}") for name in IMAGE_FIELDS})
    return PictureRow(_detection(row), REMOVED if image.file is None else PAINTED, image)
