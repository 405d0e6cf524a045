"""Recording hours: a live source that sleeps, and the rule that says when."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fieldstation.records import AudioChunk, Place

if TYPE_CHECKING:
    from fieldstation.audio.source import AudioSource, OnWait

POLL_S = 0.5


def is_awake(hours: str, now: datetime, place: Place) -> bool:
    """Return whether the station listens at a local time.

    Args:
        hours: `always`, or `START..END`; each bound is HH:MM, or dawn, sunrise, sunset or dusk
            with minutes added or taken away (`sunrise-30`). END before START spans midnight.
        now: aware local time.
        place: latitude and longitude, where a bound is the sun's.

    Where the sun does not rise or set that day (polar day and night), the station listens:
    a recording too many can be thrown away, one too few cannot be made again.
    """
    if hours == "always":
        return True
    bounds = [_bound(text, now, place) for text in hours.split("..")]
    start, end = bounds
    if start is None or end is None:
        return True
    return start <= now < end if start <= end else now >= start or now < end


def _bound(text: str, now: datetime, place: Place) -> datetime | None:
    """Return today's instant of a bound, or None where the sun has none today."""
    match = re.fullmatch(r"(dawn|sunrise|sunset|dusk)([+-]\d+)?", text)
    if not match:
        hour, minute = map(int, text.split(":"))
        return now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    from astral import Observer
    from astral.sun import sun

    if place.latitude is None or place.longitude is None:
        raise ValueError(f"{text} needs the station's latitude and longitude")
    observer = Observer(place.latitude, place.longitude)
    try:
        at: datetime = sun(observer, date=now.date(), tzinfo=now.tzinfo or UTC)[match[1]]
    except ValueError:
        return None
    return at + timedelta(minutes=int(match[2] or 0))


class RecordingHours:
    """A live source that is closed while the station sleeps and opened anew when it wakes.

    `awake` is set and cleared by the schedule; `open_source` makes the microphone.
    """

    live = True

    def __init__(
        self, open_source: Callable[[], AudioSource], awake: threading.Event, on_wait: OnWait
    ) -> None:
        self._open_source = open_source
        self._awake = awake
        self._on_wait = on_wait
        self._closed = threading.Event()
        self._source = open_source()

    @property
    def description(self) -> str:
        """Return what is listened to, or that it sleeps."""
        return f"{self._source.description}{'' if self._awake.is_set() else ' (asleep)'}"

    @property
    def problem(self) -> str:
        """Return what is wrong with the source; sleeping is nothing wrong."""
        return self._source.problem if self._awake.is_set() else ""

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield the source's chunks; the first after a sleep is marked as following a gap."""
        slept = False
        while not self._closed.is_set():
            for chunk in self._source:
                if slept and not chunk.gap:
                    chunk = replace(chunk, gap=1, cause="asleep")
                slept = False
                yield chunk
                if not self._awake.is_set():
                    break
            if self._awake.is_set():
                return  # the source itself ended
            self._source.close()
            while not self._awake.is_set() and not self._closed.wait(POLL_S):
                self._on_wait("asleep")
            slept = True
            if not self._closed.is_set():
                self._source = self._open_source()

    def close(self) -> None:
        """End the iteration soon."""
        self._closed.set()
        self._source.close()
