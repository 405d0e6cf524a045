"""The log's pictures: one row each, known by event, generator and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Select, select, update

from fieldstation.records import Image
from fieldstation.store.database import Database
from fieldstation.store.log_tables import DETECTIONS, IMAGES
from fieldstation.store.upsert import insert

IMAGE_FIELDS = tuple(field.name for field in fields(Image))
IDENTITY = ("event_id", "generator_id", "seed")


@dataclass(frozen=True, slots=True)
class Told:
    """A picture with what is told of its event; empty texts where the log has no such event."""

    id: int
    image: Image
    timezone: str
    scientific_name: str
    common_name: str
    probability: float
    started_at: int


class Images:
    """The pictures that are to be published. Methods may raise StoreUnavailable."""

    def __init__(self, database: Callable[[], Database], wall: Callable[[], int]) -> None:
        """Say where the log is; see `Jobs`."""
        self._database = database
        self._wall = wall

    def unpublished(self, after: int, limit: int) -> list[Told]:
        """Return pictures that no broker has acknowledged, of higher id than `after`, in order."""
        due = IMAGES.c.published_at.is_(None) & IMAGES.c.file.is_not(None)
        query = told_query().where(due, IMAGES.c.id > after).order_by(IMAGES.c.id).limit(limit)
        with self._database().read() as connection:
            return [told(row) for row in connection.execute(query)]

    def mark_published(self, ids: Sequence[int]) -> None:
        """Note that the broker has them."""
        done = update(IMAGES).where(IMAGES.c.id.in_(list(ids)))
        with self._database().write() as connection:
            connection.execute(done.values(published_at=self._wall()))

    def mark_removed(self, ids: Sequence[int]) -> None:
        """Note that their files are gone."""
        with self._database().write() as connection:
            connection.execute(update(IMAGES).where(IMAGES.c.id.in_(list(ids))).values(file=None))


def record_image(connection: Connection, image: Image) -> bool:
    """Write a picture unless it is there; return whether it was written.

    One whose file was removed is there again, and published again.
    """
    statement = insert(connection, IMAGES)
    anew = {name: getattr(statement.excluded, name) for name in IMAGE_FIELDS}
    back = statement.on_conflict_do_update(
        index_elements=IDENTITY,
        set_=anew | {"published_at": None},
        where=IMAGES.c.file.is_(None),
    )
    values = {name: getattr(image, name) for name in IMAGE_FIELDS}
    return connection.execute(back.returning(IMAGES.c.id), values).first() is not None


def told_query() -> Select[Any]:
    """Return the query of pictures with what `told` needs of their events."""
    d = DETECTIONS.c
    return select(
        IMAGES,
        d.timezone,
        d.scientific_name,
        d.common_name,
        d.probability,
        d.started_at.label("heard_at"),
    ).join(DETECTIONS, d.event_id == IMAGES.c.event_id, isouter=True)


def told(row: Any) -> Told:
    """Return a row of `told_query`."""
    return Told(
        id=row.id,
        image=Image(**{name: getattr(row, name) for name in IMAGE_FIELDS}),
        timezone=row.timezone or "UTC",
        scientific_name=row.scientific_name or "",
        common_name=row.common_name or "",
        probability=row.probability or 0.0,
        started_at=row.heard_at or 0,
    )
