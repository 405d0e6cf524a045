"""What the encoder said of a call, kept beside the log's rows for as long as it may be painted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from fieldstation.records import Detection
from fieldstation.store.bulk import write_rows
from fieldstation.store.database import Database
from fieldstation.store.log_tables import EMBEDDINGS
from fieldstation.store.upsert import Insert


def keep_embeddings(
    connection: Connection, detections: Sequence[Detection], received_at: int
) -> None:
    """Write the embeddings of new detections, of those that have one."""
    rows = {d.event_id: (d.event_id, d.embedding, received_at) for d in detections if d.embedding}
    write_rows(
        connection,
        EMBEDDINGS,
        _unless_there,
        ("event_id", "embedding", "received_at"),
        [rows[event_id] for event_id in sorted(rows)],
    )


def _unless_there(statement: Insert) -> Insert:
    return statement.on_conflict_do_nothing(index_elements=["event_id"])


def embedding_of(database: Database, event_id: str) -> bytes | None:
    """Return an event's embedding, float16 little-endian; None where it is not, or not any more."""
    wanted = select(EMBEDDINGS.c.embedding).where(EMBEDDINGS.c.event_id == event_id)
    with database.read() as connection:
        found = connection.execute(wanted).scalar()
    return None if found is None else bytes(found)
