"""A hub's side of pictures: it keeps what stations have painted, and queues what is to be painted.

Nothing of the generator is loaded before the first picture comes.
"""

from __future__ import annotations

import time

from fieldstation.clock import Clock
from fieldstation.config import GenerationSettings
from fieldstation.gallery import Gallery, GalleryError, picture_name
from fieldstation.pictures import BYTES_PER_MB, retain
from fieldstation.records import Picture
from fieldstation.schedule import Chore, Chores
from fieldstation.store.errors import StoreError
from fieldstation.store.late_log import LateLog
from fieldstation.store.received import ReceivedPictures

RETENTION_EVERY_S = 3_600.0
SHARE = 20
"""Sooner, when a twentieth of the room for pictures came since: a station may send them fast"""


class HubPictures:
    """What takes pictures into a hub's log, and removes old ones."""

    def __init__(
        self, log: LateLog, gallery: Gallery, generation: GenerationSettings, clock: Clock
    ) -> None:
        """Say where they go, and how long they are kept."""
        self._log = log
        self._gallery = gallery
        self._generation = generation
        self._clock = clock
        self._next_at = 0.0
        self._n_bytes = 0
        self.intake = ReceivedPictures(
            lambda: log.opened().database, _size_of, _name_of, self._write, gallery.has
        )
        self.chores = Chores(
            [Chore("retention", self._retain, on_fault=(StoreError, GalleryError))]
        )

    def tick(self) -> None:
        """Ask for retention when its time has come; call it now and then."""
        is_much = self._n_bytes * SHARE > self._generation.max_size_mb * BYTES_PER_MB
        if is_much or time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + RETENTION_EVERY_S
            self._n_bytes = 0
            self.chores.request("retention")

    def _write(self, name: str, png: bytes) -> None:
        self._gallery.write(name, png)
        self._n_bytes += len(png)

    def _retain(self) -> str:
        return retain(
            lambda: self._log.opened().database, self._gallery, self._generation, self._clock.wall()
        )


def _size_of(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG as a fieldstation writes it.

    Raises:
        NotAPicture: it is none; a ValueError.
    """
    from fieldstation.generation.incoming import read_picture

    height, width, _ = read_picture(png).shape
    return width, height


def _name_of(picture: Picture) -> str:
    image = picture.image
    return picture_name(
        image.event_id, image.generator_id, image.seed, picture.started_at, picture.timezone
    )
