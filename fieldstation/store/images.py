"""The log's pictures: one row each, known by event, generator and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Select, select, update

from fieldstation.records import Image, Picture
from fieldstation.store.database import Database
from fieldstation.store.log_tables import DETECTIONS, IMAGES
from fieldstation.store.upsert import insert

IMAGE_FIELDS = tuple(field.name for field in fields(Image))
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
        due = IMAGES.c.published_at.is_(None) & IMAGES.c.file.is_not(None)
        query = _pictures().where(due, IMAGES.c.id > after).order_by(IMAGES.c.id).limit(limit)
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


def record_image(connection: Connection, image: Image, published_at: int | None = None) -> bool:
    """Write a picture unless it is there; return whether it was written.

    One whose file was removed is there again, and published again.

    Args:
        published_at: when it was published, where somebody else did that.
    """
    statement = insert(connection, IMAGES)
    anew = {name: getattr(statement.excluded, name) for name in IMAGE_FIELDS}
    back = statement.on_conflict_do_update(
        index_elements=IDENTITY,
        set_=anew | {"published_at": published_at},
        where=IMAGES.c.file.is_(None),
    )
    values = {name: getattr(image, name) for name in IMAGE_FIELDS}
    values |= {"published_at": published_at}
    return connection.execute(back.returning(IMAGES.c.id), values).first() is not None


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
