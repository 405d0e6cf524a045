"""Logs that older versions made keep what is in them."""

from __future__ import annotations

from sqlalchemy import MetaData, text

from fieldstation.store.database import open_url
from fieldstation.store.embeddings import embedding_of
from fieldstation.store.log_db import LogStore
from fieldstation.store.query import Filter, detections
from fieldstation.store.schema import Schema, bring_up_to_date
from tests.store.examples import DAWN, EMBEDDING, detection

OLD_ROW = text(
    "INSERT INTO detections (event_id, station, station_key, sequence, started_at, ended_at,"
    " timezone, started_local, scientific_name, common_name, probability, threshold, encoder_id,"
    " n_windows, latitude, longitude, place, clip, source, embedding, received_at)"
    " VALUES (:event_id, :station, :station_key, :sequence, :started_at, :ended_at, :timezone,"
    " '2026-05-01T06:12:07.250000+02:00', :scientific_name, :common_name, :probability,"
    " :threshold, :encoder_id, :n_windows, :latitude, :longitude, :place, :clip, :source,"
    " :embedding, :received_at)"
)


def test_embeddings_move_out_of_the_detections(log_url: str) -> None:
    """A log of version 2: rows stay as they were, each embedding beside its event."""
    old = open_url(log_url, timeout_s=1.0)
    bring_up_to_date(old, Schema("log", 2, MetaData()))
    with old.write() as connection:
        for number, embedding in ((1, EMBEDDING), (2, None)):
            d = detection(number, embedding=embedding)
            fields = {name: getattr(d, name) for name in d.__slots__}
            connection.execute(OLD_ROW, fields | {"received_at": DAWN})
    old.close()
    log = LogStore(log_url)
    assert {d.event_id for d in detections(log, Filter())} == {
        detection(1).event_id,
        detection(2).event_id,
    }
    assert embedding_of(log.database, detection(1).event_id) == EMBEDDING
    assert embedding_of(log.database, detection(2).event_id) is None
    log.close()
