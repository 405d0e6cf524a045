"""The log's pictures: one row each, known by event, generator and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select, update

from fieldstation.records import Image, Picture
from fieldstation.store.database import Database
from fieldstation.store.log_tables import DETECTIONS, IMAGES, IS_THERE
from fieldstation.store.upsert import insert

IMAGE_FIELDS = tuple(field.name for field in fields(Image))
PAGE = 500
IDENTITY = ("event_id", "generator_id", "seed")


class Images:
    """The pictures that are to be published. Methods may raise StoreUnavailable."""

    def __init__(self, database: Callable[[], Database], wall: Callable[[], int]) -> None:
        """Say where the log is; see `Jobs`."""
        self._database = database
        self._wall = wall

    def unpublished(self, after: int, limit: int) -> list[tuple[int, Picture]]:
        """Return pictures that no broker has acknowledged, with their ids, in order.

        Args:
            after: only higher ids.
        """
        query = _pictures().where(_is_unpublished(), IMAGES.c.id > after)
        query = query.order_by(IMAGES.c.id).limit(limit)
        with self._database().read() as connection:
            return [(row.id, _picture(row)) for row in connection.execute(query)]

    def mark_published(self, ids: Sequence[int]) -> None:
        """Note that the broker has them."""
        done = update(IMAGES).where(IMAGES.c.id.in_(list(ids)))
        with self._database().write() as connection:
            connection.execute(done.values(published_at=self._wall()))

    def mark_removed(self, ids: Sequence[int]) -> None:
        """Note that their files are gone."""
        with self._database().write() as connection:
            connection.execute(update(IMAGES).where(IMAGES.c.id.in_(list(ids))).values(file=None))

    def expired(self, before: int | None, max_bytes: int) -> list[tuple[int, str]]:
        """Return the oldest pictures that must go, ids and files, a page at a time.

        Args:
            before: whatever was made earlier; None: nothing is too old.
            max_bytes: of all that stay.
        """
        columns = IMAGES.c.id, IMAGES.c.file, IMAGES.c.n_bytes, IMAGES.c.made_at
        oldest = select(*columns).where(IS_THERE).order_by(IMAGES.c.made_at, IMAGES.c.id)
        with self._database().read() as connection:
            total = connection.execute(select(func.sum(IMAGES.c.n_bytes)).where(IS_THERE)).scalar()
            surplus = int(total or 0) - max_bytes
            due = []
            for row in connection.execute(oldest.limit(PAGE)):
                if surplus <= 0 and (before is None or row.made_at >= before):
                    break
                due.append((row.id, row.file))
                surplus -= row.n_bytes
        return due


def record_image(
    connection: Connection,
    image: Image,
    published_at: int | None = None,
    told: Picture | None = None,
    replaces: bool = False,
) -> bool:
    """Write a picture unless it is there; return whether it was written.

    One whose file was removed is there again, and published again.

    Args:
        published_at: when it was published, where somebody else did that.
        told: of the picture of an event that the log may not have yet.
        replaces: whether its file has taken the place of the one that is there. Painted by another
            release, provider or sampling it may be another, and is then published again.
    """
    statement = insert(connection, IMAGES)
    anew = {name: getattr(statement.excluded, name) for name in IMAGE_FIELDS}
    back = statement.on_conflict_do_update(
        index_elements=IDENTITY,
        set_=anew | {"published_at": published_at},
        where=IMAGES.c.file.is_(None)
        | (literal(replaces) & (IMAGES.c.sha256 != statement.excluded.sha256)),
    )
    values = {name: getattr(image, name) for name in IMAGE_FIELDS}
    values |= {"published_at": published_at} | _of_event(image.event_id, told)
    return connection.execute(back.values(values).returning(IMAGES.c.id)).first() is not None


def _of_event(event_id: str, told: Picture | None) -> dict[str, Any]:
    """Return what pictures are looked for by: their event's start and species."""
    if told is not None:
        return {"started_at": told.started_at, "scientific_name": told.scientific_name}
    d = DETECTIONS.c
    return {
        column.name: select(column).where(d.event_id == event_id).scalar_subquery()
        for column in (d.started_at, d.scientific_name)
    }


def n_unpublished(connection: Connection, station: str | None = None) -> int:
    """Return how many pictures no broker has acknowledged, of one station's events or of all."""
    query = _pictures().where(_is_unpublished())
    if station is not None:
        query = query.where(IMAGES.c.station == station)
    counted = select(func.count()).select_from(query.with_only_columns(IMAGES.c.id).subquery())
    return int(connection.execute(counted).scalar_one())


def _is_unpublished() -> ColumnElement[bool]:
    return IMAGES.c.published_at.is_(None) & IMAGES.c.file.is_not(None)


def _pictures() -> Select[Any]:
    d = DETECTIONS.c
    of_event = d.timezone, d.scientific_name, d.common_name, d.probability
    return select(IMAGES, *of_event, d.started_at).join(DETECTIONS, d.event_id == IMAGES.c.event_id)


def _picture(row: Any) -> Picture:
    return Picture(
        image=Image(**{name: getattr(row, name) for name in IMAGE_FIELDS}),
        scientific_name=row.scientific_name,
        common_name=row.common_name,
        probability=row.probability,
        started_at=row.started_at,
        timezone=row.timezone,
    )
