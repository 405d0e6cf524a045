"""Recording hours, by the clock and by the sun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from fieldstation.audio.hours import RecordingHours, is_awake
from fieldstation.audio.source import OnWait
from fieldstation.records import AudioChunk, Place

BERLIN = Place("Berlin", 52.52, 13.40)
TROMSO = Place("Tromsø", 69.65, 18.96)
ZONE = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("hours", "time", "awake"),
    [
        ("always", "05-01T03:00", True),
        ("05:00..21:30", "05-01T04:59", False),
        ("05:00..21:30", "05-01T05:00", True),
        ("05:00..21:30", "05-01T21:30", False),
        ("21:00..05:00", "05-01T23:00", True),
        ("21:00..05:00", "05-01T12:00", False),
        # Berlin, 1 May 2026: sunrise 05:33, sunset 20:32 (summer time, within a minute)
        ("sunrise-30..sunset+30", "05-01T05:01", False),
        ("sunrise-30..sunset+30", "05-01T05:06", True),
        ("sunrise-30..sunset+30", "05-01T20:59", True),
        ("sunrise-30..sunset+30", "05-01T21:05", False),
        # 15 June: first light 03:52, sunrise 04:43, sunset 21:31. Owls are heard past midnight.
        ("sunset..sunset+240", "06-15T00:30", True),
        ("sunset..sunset+240", "06-15T01:40", False),
        ("sunset..sunset+240", "06-15T23:30", True),
        ("dawn-300..sunrise", "06-15T22:30", False),
        ("dawn-300..sunrise", "06-15T23:30", True),
        ("dawn-300..sunrise", "06-16T00:30", True),
        ("sunset+150..dawn-60", "06-15T00:30", True),
        ("sunset+150..dawn-60", "06-15T12:00", False),
        ("06:00..06:00", "06-15T03:00", True),
    ],
)
def test_the_station_listens_in_its_hours(hours: str, time: str, awake: bool) -> None:
    """Start belongs to the hours, end does not; either may lie past midnight."""
    now = datetime.fromisoformat(f"2026-{time}:00").replace(tzinfo=ZONE)
    assert is_awake(hours, now, BERLIN) is awake


@pytest.mark.parametrize(
    ("hours", "time", "awake"),
    [
        # Tampere, 21 June 2026: sunrise 03:42, sunset 23:11
        ("sunrise..sunset", "02:00", False),
        ("sunrise..sunset", "04:00", True),
        ("dawn..dusk", "02:00", True),
    ],
)
def test_in_white_nights_the_sun_sets_though_it_stays_light(
    hours: str, time: str, awake: bool
) -> None:
    """There is no dawn and no dusk then, of which hours by the sunrise know nothing."""
    zone = ZoneInfo("Europe/Helsinki")
    now = datetime.fromisoformat(f"2026-06-21T{time}:00").replace(tzinfo=zone)
    assert is_awake(hours, now, Place("Tampere", 61.5, 23.8)) is awake


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

    def open_source(_: OnWait) -> Tone:
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


class Absent(Tone):
    """A microphone that never comes, and says so until it is closed."""

    def __init__(self, on_wait: OnWait) -> None:
        super().__init__()
        self._on_wait = on_wait

    def __iter__(self) -> Iterator[AudioChunk]:
        while not self.closed:
            self._on_wait("microphone")
        yield from ()


def test_a_microphone_that_is_away_is_not_missed_while_the_station_sleeps() -> None:
    """What was not to be heard is asleep by schedule, whatever is or is not plugged in."""
    awake = threading.Event()
    awake.set()
    causes: list[str] = []

    def on_wait(cause: str) -> None:
        causes.append(cause)
        if len(causes) == 2:
            awake.clear()
        if len(causes) == 4:
            awake.set()
        if len(causes) == 6:
            source.close()

    source = RecordingHours(Absent, awake, on_wait)
    assert list(source) == []
    assert causes == ["microphone"] * 2 + ["asleep"] * 2 + ["microphone"] * 2
