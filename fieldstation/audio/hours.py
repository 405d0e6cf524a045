"""Recording hours: a live source that sleeps, and the rule that says when."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

from fieldstation.records import AudioChunk, Place

if TYPE_CHECKING:
    from fieldstation.audio.source import AudioSource, OnWait

POLL_S = 0.5
ASLEEP = "asleep"
"""Cause of what is not heard by schedule"""


def is_awake(hours: str, now: datetime, place: Place) -> bool:
    """Return whether the station listens at a local time.

    Args:
        hours: `always`, or `START..END`; each bound is HH:MM, or dawn, sunrise, sunset or dusk
            with minutes added or taken away (`sunrise-30`), past midnight if need be. END before
            START spans midnight; the same twice is the whole day.
        now: aware local time.
        place: latitude and longitude, where a bound is the sun's.

    Where the sun does not rise or set that day (polar day and night), the station listens:
    a recording too many can be thrown away, one too few cannot be made again.
    """
    if hours == "always":
        return True
    # Yesterday's hours may reach into today, and tomorrow's begin before midnight.
    days = (now.date() + timedelta(days=n) for n in (-1, 0, 1))
    return any(_listens_from(hours, day, now, place) for day in days)


def _listens_from(hours: str, day: date, now: datetime, place: Place) -> bool:
    """Return whether `now` lies between a day's START and the END that follows it."""
    zone = now.tzinfo or UTC
    first, last = hours.split("..")
    start = _bound(first, day, zone, place)
    if start is None or _bound(last, day, zone, place) is None:
        return day == now.date()
    ends = (_bound(last, day + timedelta(days=n), zone, place) for n in range(4))
    end = next(at for at in ends if at is None or at > start)
    return start <= now and (end is None or now < end)


def _bound(text: str, day: date, zone: tzinfo, place: Place) -> datetime | None:
    """Return a day's instant of a bound, or None where the sun has none that day."""
    match = re.fullmatch(r"(dawn|sunrise|sunset|dusk)([+-]\d+)?", text)
    if not match:
        return datetime.combine(day, time.fromisoformat(text), zone)
    from astral import Observer, sun

    if place.latitude is None or place.longitude is None:
        raise ValueError(f"{text} needs the station's latitude and longitude")
    observer = Observer(place.latitude, place.longitude)
    try:
        # Each by itself: in a white night there is a sunset and no dusk.
        at: datetime = getattr(sun, match[1])(observer, date=day, tzinfo=zone)
    except ValueError:
        return None
    return at + timedelta(minutes=int(match[2] or 0))


class RecordingHours:
    """A live source that is closed while the station sleeps and opened anew when it wakes.

    `awake` is set and cleared by the schedule; `open_source` makes the microphone, and hands it
    what it tells of waiting: while the station sleeps, no microphone is missed.
    """

    live = True

    def __init__(
        self, open_source: Callable[[OnWait], AudioSource], awake: threading.Event, on_wait: OnWait
    ) -> None:
        self._open_source = open_source
        self._awake = awake
        self._on_wait = on_wait
        self._closed = threading.Event()
        self._is_asleep = False
        self._source = open_source(self._waited)

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
                    chunk = replace(chunk, gap=1, cause=ASLEEP)
                slept = False
                yield chunk
                if self._falls_asleep():
                    break
            if not self._falls_asleep():
                return  # the source itself ended
            self._source.close()
            while not self._awake.is_set() and not self._closed.wait(POLL_S):
                self._on_wait(ASLEEP)
            slept, self._is_asleep = True, False
            if not self._closed.is_set():
                self._source = self._open_source(self._waited)

    def _falls_asleep(self) -> bool:
        """Return whether the source is given up: also where the hours begin again just now."""
        self._is_asleep = self._is_asleep or not self._awake.is_set()
        return self._is_asleep

    def _waited(self, cause: str) -> None:
        if self._falls_asleep():
            self._source.close()
        self._on_wait(ASLEEP if self._is_asleep else cause)

    def close(self) -> None:
        """End the iteration soon."""
        self._closed.set()
        self._source.close()
