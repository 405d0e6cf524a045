"""Recording hours, by the clock and by the sun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from fieldstation.audio.hours import RecordingHours, is_awake
from fieldstation.records import AudioChunk, Place

BERLIN = Place("Berlin", 52.52, 13.40)
TROMSO = Place("Tromsø", 69.65, 18.96)
ZONE = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("hours", "time", "awake"),
    [
        ("always", "03:00", True),
        ("05:00..21:30", "04:59", False),
        ("05:00..21:30", "05:00", True),
        ("05:00..21:30", "21:30", False),
        ("21:00..05:00", "23:00", True),
        ("21:00..05:00", "12:00", False),
        # Berlin, 1 May 2026: sunrise 05:33, sunset 20:32 (summer time, within a minute)
        ("sunrise-30..sunset+30", "05:01", False),
        ("sunrise-30..sunset+30", "05:06", True),
        ("sunrise-30..sunset+30", "20:59", True),
        ("sunrise-30..sunset+30", "21:05", False),
    ],
)
def test_the_station_listens_in_its_hours(hours: str, time: str, awake: bool) -> None:
    """Start belongs to the hours, end does not; an end before the start spans midnight."""
    now = datetime.fromisoformat(f"2026-05-01T{time}:00").replace(tzinfo=ZONE)
    assert is_awake(hours, now, BERLIN) is awake


def test_where_the_sun_does_not_set_it_listens() -> None:
    """Polar day: a recording too many can be thrown away."""
    now = datetime(2026, 6, 21, 1, 0, tzinfo=ZoneInfo("Europe/Oslo"))
    assert is_awake("sunrise..sunset", now, TROMSO)


class Tone:
    """A live source that gives three chunks and then goes on as long as it is asked."""

    live = True
    description = "tone"
    problem = ""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[AudioChunk]:
        while not self.closed:
            yield AudioChunk(np.zeros(10, np.float32), 1_000, 0)

    def close(self) -> None:
        self.closed = True


def test_asleep_the_microphone_is_closed_and_the_gap_is_told_on_waking() -> None:
    """Sleep closes the device, waiting is reported as asleep, the first chunk after it says so."""
    awake = threading.Event()
    awake.set()
    opened: list[Tone] = []
    causes: list[str] = []

    def open_source() -> Tone:
        opened.append(Tone())
        return opened[-1]

    def on_wait(cause: str) -> None:
        causes.append(cause)
        awake.set()

    source = RecordingHours(open_source, awake, on_wait)
    chunks = iter(source)
    assert next(chunks).gap == 0
    awake.clear()
    after = next(chunks)
    assert (after.gap, after.cause) == (1, "asleep")
    assert causes == ["asleep"]
    assert [tone.closed for tone in opened] == [True, False]
    source.close()
    assert list(chunks) == []
