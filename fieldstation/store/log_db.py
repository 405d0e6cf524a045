"""The log: every station's detections and coverage, on SQLite or PostgreSQL.

Writing is idempotent: what comes again changes nothing, so a message may be sent until its receipt
arrives. What does not fit goes to a bounded quarantine with the reason, and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, select

from fieldstation.clock import Clock, SystemClock, local
from fieldstation.records import Detection, Interval, Quarantined
from fieldstation.store.bulk import insert_new
from fieldstation.store.database import Database, open_url
from fieldstation.store.embeddings import keep_embeddings
from fieldstation.store.fit import misfit, misfit_detection, misfit_values
from fieldstation.store.job_maker import JobMaker
from fieldstation.store.log_tables import COUNTERS, COVERAGE, DETECTIONS, QUARANTINE, SCHEMA
from fieldstation.store.quarantine import DROPPED, put_away, refused
from fieldstation.store.schema import bring_up_to_date
from fieldstation.store.totals import DAY, count_in
from fieldstation.store.upsert import Insert, insert

TIMEOUT_S = 1.0
"""Wait for another process's lock"""
IDS_AT_ONCE = 1_000
"""A recording of a season may hold more known events than SQLite has variables: 32,766"""
QUARANTINE_LIMIT = 1_000
"""Messages kept there"""
PROBABILITY_SLACK = 1e-3
"""What the same sound's probability may differ by on another processor"""

CONTENT = (
    "station",
    "started_at",
    "ended_at",
    "timezone",
    "scientific_name",
    "probability",
    "threshold",
    "encoder_id",
    "n_windows",
)
"""What was heard. The rest is circumstance (a file replayed from another folder, by a new outbox,
with names in another language) and makes no conflict."""
CLOCK = SystemClock()
DETECTION_FIELDS = tuple(f.name for f in fields(Detection) if f.name != "embedding")
"""The embedding stands in a table of its own"""
COLUMNS = (*DETECTION_FIELDS, "started_local", "received_at", "local_date")
_fields_of = attrgetter(*DETECTION_FIELDS)

Values = dict[str, Any]


class Outcome(StrEnum):
    """What became of a detection that was to be recorded; each is durable and may be confirmed."""

    NEW = "new"
    SAME = "same"
    """It was there already"""
    CONFLICT = "conflict"
    """Its id is there with other content: the first stays, this one is in quarantine"""
    UNFIT = "unfit"
    """The tables cannot hold it: it is in quarantine"""


class LogStore:
    """The log's tables."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        readonly: bool = False,
        quarantine_limit: int = QUARANTINE_LIMIT,
        clock: Clock = CLOCK,
        maker: JobMaker | None = None,
    ) -> None:
        """Open the database, making or upgrading its tables where needed.

        Args:
            url: `sqlite:///…`, `postgresql://…`, or the path of a SQLite file.
            timeout_s: how long to wait for another writer.
            readonly: open also where nothing may be written.
            quarantine_limit: newest messages kept there.
            clock: dates what is put there.
            maker: makes the jobs of what is new; None: no pictures.

        Raises:
            NewerDatabase: a newer fieldstation made it.
            StoreError: it cannot be used; the text says why.
        """
        self.database: Database = open_url(url, timeout_s=timeout_s, readonly=readonly)
        self._quarantine_limit = quarantine_limit
        self._clock = clock
        self._maker = maker
        bring_up_to_date(self.database, SCHEMA)

    def record(self, detections: Sequence[Detection], received_at: int) -> list[Outcome]:
        """Write detections in one transaction; return what became of each, in order.

        Raises:
            StoreUnavailable: disk, lock or server are not to be had; nothing was written.
        """
        outcomes: list[Outcome] = [Outcome.UNFIT] * len(detections)
        reasons = {i: reason for i, d in enumerate(detections) if (reason := misfit_detection(d))}
        rows = {
            index: _detection_values(detection, received_at)
            for index, detection in enumerate(detections)
            if index not in reasons
        }
        with self.database.write() as connection:
            new = _insert_first(connection, rows)
            conflicts = _compare(connection, {i: r for i, r in rows.items() if i not in new})
            count_in(connection, [rows[index] for index in sorted(new)])
            keep_embeddings(connection, [detections[index] for index in sorted(new)], received_at)
            if self._maker:
                self._maker.make(connection, [detections[i] for i in sorted(new)], received_at)
            for index in rows:
                outcomes[index] = Outcome.CONFLICT if index in conflicts else Outcome.SAME
            for index in new:
                outcomes[index] = Outcome.NEW
            self._put_away(connection, detections, reasons | conflicts, received_at)
        return outcomes

    def record_coverage(
        self, station: str, station_key: str, intervals: Iterable[Interval]
    ) -> None:
        """Write a station's intervals; one that is there (run, start, state) only grows.

        Raises:
            StoreUnavailable: disk, lock or server are not to be had; nothing was written.
        """
        whose = misfit("station", station) or misfit("station_key", station_key)
        unfit: list[Quarantined] = []
        longest: dict[tuple[str, int, str], Interval] = {}
        for interval in intervals:
            reason = whose or misfit_values(interval)
            key = (interval.run_id, interval.started_at, interval.state.value)
            if reason:
                unfit.append(refused(interval, station, self._clock.wall(), reason))
            elif key not in longest or longest[key].duration_s < interval.duration_s:
                longest[key] = interval
        rows = [_interval_values(station, station_key, longest[key]) for key in sorted(longest)]
        with self.database.write() as connection:
            if rows:
                connection.execute(_growing(connection), rows)
            put_away(connection, unfit, self._quarantine_limit)

    def quarantine(self, *messages: Quarantined) -> None:
        """Keep messages that do not fit; the newest stay, the number dropped is counted."""
        with self.database.write() as connection:
            put_away(connection, messages, self._quarantine_limit)

    def quarantined(self, limit: int = 100) -> list[Quarantined]:
        """Return what is in quarantine, newest first."""
        newest = select(QUARANTINE).order_by(QUARANTINE.c.id.desc()).limit(limit)
        with self.database.read() as connection:
            return [
                Quarantined(row.received_at, row.topic, row.payload, row.reason)
                for row in connection.execute(newest)
            ]

    def n_dropped(self) -> int:
        """Return how many messages left the quarantine for newer ones."""
        counter = select(COUNTERS.c.n).where(COUNTERS.c.name == DROPPED)
        with self.database.read() as connection:
            return int(connection.execute(counter).scalar() or 0)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def _put_away(
        self,
        connection: Connection,
        detections: Sequence[Detection],
        reasons: dict[int, str],
        received_at: int,
    ) -> None:
        messages = [
            refused(detections[i], detections[i].station, received_at, reason)
            for i, reason in sorted(reasons.items())
        ]
        put_away(connection, messages, self._quarantine_limit)


def _insert_first(connection: Connection, rows: dict[int, Values]) -> set[int]:
    """Insert the first row of each id that is not there; return the indices of those inserted."""
    first: dict[str, int] = {}
    for index, row in rows.items():
        first.setdefault(row["event_id"], index)
    ordered = [tuple(rows[first[event_id]].values()) for event_id in sorted(first)]
    return {first[key] for key in insert_new(connection, DETECTIONS, COLUMNS, ordered)}


def _compare(connection: Connection, rows: dict[int, Values]) -> dict[int, str]:
    """Compare rows with those stored under their ids; return in words what differs, by index."""
    stored = _stored(connection, sorted({row["event_id"] for row in rows.values()}))
    differences = {i: _difference(stored[row["event_id"]], row) for i, row in rows.items()}
    return {
        index: f"event_id is in the log with other content: {difference}"
        for index, difference in differences.items()
        if difference
    }


def _stored(connection: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Return the rows of some ids that are there, by id."""
    found: dict[str, Row[Any]] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        some = ids[start : start + IDS_AT_ONCE]
        query = select(DETECTIONS).where(DETECTIONS.c.event_id.in_(some))
        found.update((row.event_id, row) for row in connection.execute(query))
    return found


def _difference(stored: Row[Any], given: Values) -> str:
    return "; ".join(
        f"{name} is {getattr(stored, name)} there, {given[name]} here"
        for name in CONTENT
        if not _is_same(name, getattr(stored, name), given[name])
    )


def _is_same(name: str, stored: Any, given: Any) -> bool:
    if name == "probability":
        return bool(abs(stored - given) <= PROBABILITY_SLACK)
    return bool(stored == given)


def _growing(connection: Connection) -> Insert:
    """Return the statement that inserts an interval or lets it grow, never shrink.

    An open interval is told again and again, and the messages may arrive in any order.
    """
    statement = insert(connection, COVERAGE)
    longer = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["station_key", "run_id", "started_at", "state"],
        set_={"duration_s": longer.duration_s, "cause": longer.cause},
        where=longer.duration_s > COVERAGE.c.duration_s,
    )


def _detection_values(detection: Detection, received_at: int) -> Values:
    moment = local(detection.started_at, detection.timezone)
    started_local = moment.isoformat(timespec="microseconds")
    values = (*_fields_of(detection), started_local, received_at, started_local[:DAY])
    return dict(zip(COLUMNS, values, strict=True))


def _interval_values(station: str, station_key: str, interval: Interval) -> Values:
    return {
        "station": station,
        "station_key": station_key,
        "run_id": interval.run_id,
        "started_at": interval.started_at,
        "duration_s": interval.duration_s,
        "state": interval.state.value,
        "cause": interval.cause,
    }
