"""The way from sound to events, without threads: the file to read second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle
from fieldstation.clock import SystemClock
from fieldstation.config import ConfigError, ModelSettings, Settings
from fieldstation.mqtt.messages import read_detection
from fieldstation.records import AudioChunk, Event, FileOrigin, Place, StationIdentity
from fieldstation.station import Recorder, Station, make_ear, thresholds
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.onnx_models import FRAME, make_tone_bundle, tone

RATE = 48_000
WHO = StationIdentity("hedge", "0123456789abcdef", "Europe/Berlin", Place("garden", 52.5, 13.4))
BEGAN = 1_777_608_720_000_000


class Direct:
    """Writes an event at once, where the service has a thread."""

    def __init__(self, store: StationStore) -> None:
        self._store = store

    def post_event(self, event, compose, clip):  # type: ignore[no-untyped-def]
        self._store.record_event(event, compose, clip)


class Counts:
    """A ledger that counts chunks."""

    n = 0

    def heard(self, chunk: AudioChunk) -> None:
        self.n += 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StationStore]:
    store = StationStore(tmp_path / "station.db", SystemClock())
    yield store
    store.close()


def make_station(bundle: Bundle, store: StationStore, settings: Settings | None = None) -> Station:
    ear = make_ear(bundle, Classifier(bundle, "cpu"), settings or Settings(), WHO, FakeClock())
    return Station(ear, Recorder(WHO, Direct(store), None), Counts())


def chunks(samples: NDArray[np.float32], origin: str | None = None) -> Iterator[AudioChunk]:
    """Cut samples into chunks of a tenth of a second."""
    for start in range(0, len(samples), RATE // 10):
        file = FileOrigin("a.wav", origin, start) if origin else None
        at = BEGAN + start * 1_000_000 // RATE
        yield AudioChunk(samples[start : start + RATE // 10], RATE, at, file=file)


def hear(station: Station, samples: NDArray[np.float32], origin: str | None = None) -> list[Event]:
    events = [event for chunk in chunks(samples, origin) for event in station.process(chunk)]
    return events + station.finish()


def song() -> NDArray[np.float32]:
    """Return 3 s of silence, 2 s of 2 kHz, 3 s of silence, 2 s of 4 kHz."""
    silence = np.zeros(3 * RATE, np.float32)
    return np.concatenate([silence, tone(2_000, 2, RATE), silence, tone(4_000, 2, RATE)])


def test_a_tone_becomes_an_event_and_its_message_in_one_transaction(
    bundle: Bundle, store: StationStore
) -> None:
    """Two tones are two events at their times; each stands in the outbox as it was heard."""
    events = hear(make_station(bundle, store), song())
    told = [read_detection(r.message.topic, r.message.payload) for r in store.pending()]
    assert [d.scientific_name for d in told] == ["Fringilla coelebs", "Parus major"]
    assert [d.event_id for d in told] == [str(e.id) for e in events]
    assert [d.sequence for d in told] == [1, 2]
    hop_us = 500_000
    for detection, start_s in zip(told, (3, 8), strict=True):
        assert abs(detection.started_at - BEGAN - start_s * 1_000_000) <= hop_us
        assert (detection.station, detection.place) == ("hedge", "garden")
        assert detection.timezone == "Europe/Berlin"


def test_with_frames_an_event_points_at_the_call(tmp_path: Path, store: StationStore) -> None:
    """Heard in a window of 1 s, a tone of 0.4 s is told to the frame; its origin is its window."""
    framed = make_tone_bundle(tmp_path / "framed", frames=True)
    sound = np.zeros(6 * RATE, np.float32)
    sound[round(3.3 * RATE) : round(3.7 * RATE)] = tone(2_000, 0.4, RATE)
    (event,) = hear(make_station(framed, store), sound, origin="ab" * 32)
    (told,) = [read_detection(r.message.topic, r.message.payload) for r in store.pending()]
    frame_us = 1_000_000 * FRAME // framed.sample_rate
    assert abs(told.started_at - BEGAN - 3_300_000) <= frame_us
    assert abs(told.ended_at - BEGAN - 3_700_000) <= frame_us
    assert (event.started_at, event.ended_at) == (told.started_at, told.ended_at)
    assert event.file is not None
    assert event.file.first_sample == round(2.5 * RATE)


def test_an_open_event_is_closed_and_kept_at_the_end(bundle: Bundle, store: StationStore) -> None:
    """A bird that still sings when the station stops is in the log."""
    station = make_station(bundle, store)
    for chunk in chunks(tone(2_000, 2, RATE)):
        assert station.process(chunk) == []
    assert len(station.finish()) == 1
    assert store.n_pending() == 1


def test_a_replayed_file_gives_the_same_events_and_no_second_row(
    bundle: Bundle, store: StationStore
) -> None:
    """A file's events are named by its content, so that hearing it twice changes nothing."""
    first = hear(make_station(bundle, store), song(), origin="ab" * 32)
    second = hear(make_station(bundle, store), song(), origin="ab" * 32)
    other = hear(make_station(bundle, store), song(), origin="cd" * 32)
    assert [e.id for e in first] == [e.id for e in second]
    assert not {e.id for e in first} & {e.id for e in other}
    assert store.n_pending() == 4


def test_a_gap_ends_an_event(bundle: Bundle, store: StationStore) -> None:
    """What was not heard is not made up: the tone on both sides of a gap is two events."""
    station = make_station(bundle, store)
    parts = list(chunks(tone(2_000, 4, RATE)))
    after = parts[20]
    parts[20] = AudioChunk(after.samples, RATE, after.captured_at, gap=4_800, cause="overflow")
    events = [event for part in parts for event in station.process(part)] + station.finish()
    assert len(events) == 2
    assert events[0].ended_at <= events[1].started_at


def test_what_overflows_the_encoder_is_passed_over_and_counted(
    bundle: Bundle, store: StationStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The station lives on, the window is named, and no event goes on over it."""
    station = make_station(bundle, store)
    sound = tone(2_000, 5, RATE)
    sound[2 * RATE : 3 * RATE] *= np.float32(1e30)
    events = hear(station, sound)
    assert [e.label.scientific_name for e in events] == ["Fringilla coelebs"] * 2
    assert events[0].ended_at < BEGAN + 2_000_000 + 500_000
    assert events[1].started_at > BEGAN + 3_000_000 - 500_000
    assert station.n_overflows > 1
    assert "2026-05-01T04:12:01" in caplog.text
    assert "overflows the encoder: its peak is" in caplog.text


def test_a_threshold_of_the_users_is_laid_over_the_bundles(bundle: Bundle) -> None:
    """A name that the bundle does not know is refused with those nearest to it."""
    settings = Settings(model=ModelSettings(thresholds={"Parus major": 0.99}))
    assert thresholds(bundle, settings) == (0.5, 0.99, 0.5)
    wrong = Settings(model=ModelSettings(thresholds={"Pica pica": 0.9}))
    with pytest.raises(ConfigError, match=r"Pica pica.*Fringilla coelebs"):
        thresholds(bundle, wrong)


def test_an_embedding_is_told_only_where_asked_for(bundle: Bundle, store: StationStore) -> None:
    """float16 of the most probable window, where the settings say so."""
    ear = make_ear(bundle, Classifier(bundle, "cpu"), Settings(), WHO, FakeClock())
    recorder = Recorder(WHO, Direct(store), None, with_embedding=True)
    (event,) = hear(Station(ear, recorder, Counts()), tone(2_000, 2, RATE))
    (row,) = store.pending()
    embedding = read_detection(row.message.topic, row.message.payload).embedding
    assert embedding is not None
    assert event.embedding is not None
    np.testing.assert_array_equal(np.frombuffer(embedding, "<f2"), event.embedding.astype("<f2"))
