"""A log that may come later than the station."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from fieldstation.records import Detection, Interval, Quarantined
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.log_db import LogStore, Outcome

log = logging.getLogger(__name__)


class LateLog:
    """A log that is opened when it first answers: a database server may start after us.

    What a person must mend (a newer or damaged database, a wrong url) is raised at once.
    """

    def __init__(self, url: str) -> None:
        """Try to open it.

        Raises:
            StoreError: it will not open by waiting.
        """
        self._url = url
        self._log: LogStore | None = None
        try:
            self.opened()
        except StoreUnavailable as error:
            log.warning("%s; trying again", error)

    def opened(self) -> LogStore:
        """Return the log.

        Raises:
            StoreUnavailable: not yet.
        """
        if self._log is None:
            self._log = LogStore(self._url)
        return self._log

    def record(self, detections: Sequence[Detection], received_at: int) -> list[Outcome]:
        """Write detections; see LogStore."""
        return self.opened().record(detections, received_at)

    def record_coverage(
        self, station: str, station_key: str, intervals: Iterable[Interval]
    ) -> None:
        """Write intervals; see LogStore."""
        self.opened().record_coverage(station, station_key, intervals)

    def quarantine(self, message: Quarantined) -> None:
        """Keep what does not fit; see LogStore."""
        self.opened().quarantine(message)

    def close(self) -> None:
        """Close it, if it ever opened."""
        if self._log is not None:
            self._log.close()
