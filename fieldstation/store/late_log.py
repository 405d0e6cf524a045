"""A log that may come later than the station, and may be taken away under it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from fieldstation.records import Detection, Interval, Quarantined
from fieldstation.store.database import file_of
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.job_maker import JobMaker
from fieldstation.store.log_db import LogStore, Outcome

log = logging.getLogger(__name__)

FileId = tuple[int, int]
"""Device and inode"""


class LateLog:
    """A log that is opened when it first answers: a database server may start after us.

    What a person must mend (a newer or damaged database, a wrong url) is raised at once.
    A file that somebody removes or replaces is noticed: the system would take every row for the
    file that has no name any more, and each would be confirmed and gone. Any thread.
    """

    def __init__(self, url: str, maker: JobMaker | None = None) -> None:
        """Try to open it.

        Args:
            maker: makes the jobs of what is new; None: no pictures.

        Raises:
            StoreError: it will not open by waiting.
        """
        self._url = url
        self._maker = maker
        self._path = file_of(url)
        self._lock = threading.Lock()
        self._log: LogStore | None = None
        self._opened: FileId | None = None
        try:
            self.opened()
        except StoreUnavailable as error:
            log.warning("%s; trying again", error)

    def opened(self) -> LogStore:
        """Return the log.

        Raises:
            StoreUnavailable: not yet.
        """
        with self._lock:
            if self._log is not None and self._is_gone():
                log.error("%s was removed or replaced: it is opened anew", self._path)
                self._log.close()
                self._log = None
            if self._log is None:
                self._log = LogStore(self._url, maker=self._maker)
                self._opened = self._file_id()
            return self._log

    def record(self, detections: Sequence[Detection], received_at: int) -> list[Outcome]:
        """Write detections; see LogStore."""
        with self._kept() as log:
            return log.record(detections, received_at)

    def record_coverage(
        self, station: str, station_key: str, intervals: Iterable[Interval]
    ) -> None:
        """Write intervals; see LogStore."""
        with self._kept() as log:
            log.record_coverage(station, station_key, intervals)

    def quarantine(self, *messages: Quarantined) -> None:
        """Keep what does not fit; see LogStore."""
        with self._kept() as log:
            log.quarantine(*messages)

    def close(self) -> None:
        """Close it, if it ever opened."""
        if self._log is not None:
            self._log.close()

    @contextmanager
    def _kept(self) -> Iterator[LogStore]:
        """Give the log, and see afterwards that what was written is where it can be found.

        Raises:
            StoreUnavailable: it is not; written again, it goes to the new file.
        """
        yield self.opened()
        with self._lock:
            if self._is_gone():
                raise StoreUnavailable(f"{self._path} was removed or replaced")

    def _is_gone(self) -> bool:
        return self._path is not None and self._file_id() != self._opened

    def _file_id(self) -> FileId | None:
        """Return what tells a file from another of the same name; None where there is none."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None
