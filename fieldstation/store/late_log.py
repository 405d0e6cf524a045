"""A log that may come later than the station, and may be taken away under it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fieldstation.clock import SystemClock
from fieldstation.records import Detection, Interval, Quarantined
from fieldstation.store.database import file_of
from fieldstation.store.errors import DamagedDatabase, StoreError, StoreUnavailable
from fieldstation.store.job_maker import JobMaker
from fieldstation.store.log_db import LogStore, Outcome
from fieldstation.store.log_tables import SCHEMA
from fieldstation.store.repair import finish, is_database, put_in_place, salvage
from fieldstation.store.totals import count_anew

log = logging.getLogger(__name__)

FileId = tuple[int, int]
"""Device and inode"""


class LateLog:
    """A log that is opened when it first answers: a database server may start after us.

    What a person must mend (a newer or damaged database, a wrong url) is raised at once; of a log
    that was open already it is waited out.
    A file that somebody removes or replaces is noticed: the system would take every row for the
    file that has no name any more, and each would be confirmed and gone. A damaged SQLite file is
    restored in a thread of its own, and is away meanwhile. Any thread.
    """

    def __init__(
        self,
        url: str,
        maker: JobMaker | None = None,
        backups: Path | None = None,
        on_restored: Callable[[], None] = lambda: None,
    ) -> None:
        """Try to open it.

        Args:
            maker: makes the jobs of what is new; None: no pictures.
            backups: folder of its copies, for whoever alone restores it; None: another does.
            on_restored: called when another file came in its place, perhaps without all of its
                rows: the restored one, a new one, or that of a disk that was away.

        Raises:
            StoreError: it will not open by waiting.
        """
        self._url = url
        self._maker = maker
        self._path = file_of(url)
        self._backups = backups
        self._on_restored = on_restored
        self._repair: threading.Thread | None = None
        self._news = ""
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
            if self._repair is not None and self._repair.is_alive():
                raise StoreUnavailable(f"{self._path} is damaged, and being restored")
            if self._log is not None and self._is_gone():
                log.error("%s was removed or replaced: it is opened anew", self._path)
                self._shut()
            damaged = self._log is not None and self._log.database.damaged.is_set()
            if damaged and self._may_repair():
                self._begin_repair()
            return self._log or self._open()

    @property
    def news(self) -> str:
        """Return what was restored in this run, for health; empty where nothing was."""
        return self._news

    def suspect(self, damage: str) -> None:
        """Take note that a check has found damage: the file is restored at its next use."""
        with self._lock:
            if self._log is not None:
                log.error("%s", damage)
                self._log.database.damaged.set()

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
        try:
            yield self.opened()
        except DamagedDatabase as error:
            if not self._may_repair():
                raise
            raise StoreUnavailable(str(error)) from error
        with self._lock:
            if self._is_gone():
                raise StoreUnavailable(f"{self._path} was removed or replaced")

    def _open(self) -> LogStore:
        if self._path is not None:
            finish(self._path)
        try:
            self._log = LogStore(self._url, maker=self._maker)
        except DamagedDatabase:
            if not self._may_repair():
                raise
            self._begin_repair()
        except StoreError as error:
            if self._opened is None:
                raise
            # A disk that was pulled may be put back: who hears does not end for that.
            raise StoreUnavailable(str(error)) from error
        before, self._opened = self._opened, self._file_id()
        if before not in (None, self._opened):
            # Not here: it waits for others, who may wait for the log.
            threading.Thread(target=self._on_restored, name="tell again", daemon=True).start()
        assert self._log is not None  # a repair that begins is an error
        return self._log

    def _shut(self) -> None:
        if self._log is not None:
            self._log.close()
        self._log = None

    def _may_repair(self) -> bool:
        """Return whether a damaged file is ours, and not a text that somebody named by mistake."""
        path, backups = self._path, self._backups
        if path is None or backups is None:
            return False
        return path.parent == backups.parent or is_database(path)

    def _begin_repair(self) -> NoReturn:
        self._shut()
        self._repair = threading.Thread(target=self._restore, name="log repair", daemon=True)
        self._repair.start()
        raise StoreUnavailable(f"{self._path} is damaged, and being restored")

    def _restore(self) -> None:
        """Put another file in the place of the damaged one; on a full disk, when asked again."""
        path, backups = self._path, self._backups
        assert path is not None
        assert backups is not None
        try:
            saved = salvage(path, SCHEMA, backups, count_anew)
            aside = put_in_place(saved.file, path, "damaged", SystemClock())
        except StoreError as error:
            log.error("%s", error)
            return
        self._opened = self._file_id()
        self._news = f"{path} was damaged: {saved}; the damaged file is {aside}"
        log.error("%s", self._news)
        self._on_restored()

    def _is_gone(self) -> bool:
        return self._path is not None and self._file_id() != self._opened

    def _file_id(self) -> FileId | None:
        """Return what tells a file from another of the same name; None where there is none."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None
