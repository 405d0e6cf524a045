"""Pictures that others painted, as a logger takes them: checked, written once, their jobs ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Connection, func, select

from fieldstation.errors import PassingError
from fieldstation.records import Picture
from fieldstation.store.database import Database
from fieldstation.store.images import record_image
from fieldstation.store.jobs import end_painted_elsewhere
from fieldstation.store.log_tables import DETECTIONS, IMAGES

log = logging.getLogger(__name__)

MOST_PER_EVENT = 16
"""Seeds and generators of one event; a station that sends more is broken or wants to fill a disk"""


class ReceivedPictures:
    """Keeps pictures that come with messages."""

    def __init__(
        self,
        database: Callable[[], Database],
        size_of: Callable[[bytes], tuple[int, int]],
        name_of: Callable[[Picture], str],
        write: Callable[[str, bytes], None],
        is_here: Callable[[str], bool],
    ) -> None:
        """Say where they go.

        Args:
            database: gives the open log.
            size_of: returns width and height of a PNG, or raises ValueError with what is wrong.
            name_of: returns the file's name.
            write: writes a file in one step.
            is_here: whether there is such a file: who painted it may have another folder, on
                another machine.
        """
        self._database = database
        self._size_of = size_of
        self._name_of = name_of
        self._write = write
        self._is_here = is_here

    def take(self, picture: Picture, png: bytes, received_at: int) -> str:
        """Keep a picture; return why not, or an empty text where it is there now.

        Raises:
            StoreUnavailable: the log is not to be had.
        """
        with self._database().read() as connection:
            known = _known(connection, picture)
            try:
                if known and (self._is_here(known[0]) or known[1] != picture.image.sha256):
                    return ""
            except PassingError as error:
                return f"not kept: {error}"
            reason = "" if known else _misfit(connection, picture)
        reason = reason or self._look_inside(picture, png)
        return reason or self._keep(picture, png, received_at)

    def _look_inside(self, picture: Picture, png: bytes) -> str:
        told = picture.image.width, picture.image.height
        try:
            size = self._size_of(png)
        except ValueError as error:
            return f"png: {error}"
        return (
            "" if size == told else f"png is {size[0]} × {size[1]}, told as {told[0]} × {told[1]}"
        )

    def _keep(self, picture: Picture, png: bytes, received_at: int) -> str:
        try:
            name = self._name_of(picture)
            self._write(name, png)
        except (ValueError, OverflowError) as error:  # the last day of the year 9999, elsewhere
            return f"its instants have no date in {picture.timezone}: {error}"
        except PassingError as error:  # events do not wait until a folder of pictures has room
            return f"not kept: {error}"
        image = picture.image.at(name, received_at)
        with self._database().write() as connection:
            record_image(connection, image, published_at=received_at, told=picture)
            end_painted_elsewhere(connection, image.event_id, received_at)
        return ""


def _known(connection: Connection, picture: Picture) -> tuple[str, str] | None:
    """Return the file and sha256 of a picture that the log has; None where it has it not."""
    image = picture.image
    known = select(IMAGES.c.file, IMAGES.c.sha256).where(
        IMAGES.c.event_id == image.event_id,
        IMAGES.c.generator_id == image.generator_id,
        IMAGES.c.seed == image.seed,
        IMAGES.c.file.is_not(None),
    )
    row = connection.execute(known).first()
    return None if row is None else (row.file, row.sha256)


def _misfit(connection: Connection, picture: Picture) -> str:
    """Return what the log knows that speaks against a picture."""
    image = picture.image
    heard_by = select(DETECTIONS.c.station).where(DETECTIONS.c.event_id == image.event_id)
    station = connection.execute(heard_by).scalar()
    if station is not None and station != image.station:
        return f"event {image.event_id} is of station {station}, the picture of {image.station}"
    of_event = select(func.count()).where(IMAGES.c.event_id == image.event_id)
    if connection.execute(of_event).scalar_one() >= MOST_PER_EVENT:
        return f"event {image.event_id} has {MOST_PER_EVENT} pictures already"
    return ""
