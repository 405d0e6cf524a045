"""The log's roll-ups made anew from its rows: after a repair, when either may lack something."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from fieldstation.store.log_tables import DAILY, DETECTIONS


def count_days_anew(connection: Connection) -> None:
    """Make the daily roll-up of the detections that there are."""
    date = func.substr(DETECTIONS.c.started_local, 1, 10)
    station, species = DETECTIONS.c.station, DETECTIONS.c.scientific_name
    days = select(
        station,
        date,
        species,
        func.max(DETECTIONS.c.common_name),
        func.count(),
        func.max(DETECTIONS.c.probability),
        func.min(DETECTIONS.c.started_at),
        func.max(DETECTIONS.c.started_at),
    ).group_by(station, date, species)
    columns = ("station", "local_date", "scientific_name", "common_name", "n", "max_probability")
    connection.execute(delete(DAILY))
    connection.execute(insert(DAILY).from_select([*columns, "first_at", "last_at"], days))
