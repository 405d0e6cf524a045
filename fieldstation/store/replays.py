"""Which recordings were replayed into a log: kept in the log itself, so that it cannot disagree."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import REPLAYS
from fieldstation.store.upsert import insert


@dataclass(frozen=True, slots=True)
class Replay:
    """One recording, heard to its end."""

    station: str
    content_hash: str
    """sha256 of the file"""
    analysis: str
    """What decides the outcome besides the sound: encoder, thresholds, hop, longest event"""
    n_events: int
    duration_s: float
    finished_at: int


def is_replayed(log: LogStore, station: str, content_hash: str, analysis: str) -> bool:
    """Return whether a recording's events are all in the log."""
    query = select(REPLAYS.c.station).where(
        REPLAYS.c.station == station,
        REPLAYS.c.content_hash == content_hash,
        REPLAYS.c.analysis == analysis,
    )
    with log.database.read() as connection:
        return connection.execute(query).first() is not None


def record_replay(log: LogStore, replay: Replay) -> None:
    """Note that a recording's events are all in the log; again changes nothing.

    Raises:
        StoreUnavailable: disk, lock or server are not to be had; nothing was written.
    """
    with log.database.write() as connection:
        statement = insert(connection, REPLAYS).values(
            station=replay.station,
            content_hash=replay.content_hash,
            analysis=replay.analysis,
            n_events=replay.n_events,
            duration_s=replay.duration_s,
            finished_at=replay.finished_at,
        )
        connection.execute(statement.on_conflict_do_nothing())
