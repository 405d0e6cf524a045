"""Values for the store's tests: an event, a detection, a message, varied by keyword."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np

from fieldstation.clock import parse_instant
from fieldstation.records import (
    Detection,
    Event,
    FileOrigin,
    Hearing,
    Image,
    Interval,
    Label,
    Message,
)

DAWN = parse_instant("2026-05-01T04:12:07.250000Z")
MINUTE = 60_000_000
GREAT_TIT = Label("Parus major", "Great Tit")

_EVENT = Event(
    id=UUID(int=1),
    label=GREAT_TIT,
    started_at=DAWN,
    ended_at=DAWN + 3_000_000,
    probability=0.875,
    threshold=0.5,
    encoder_id="0123456789abcdef",
    n_windows=2,
    embedding=np.linspace(-1, 1, 512, dtype=np.float32),
    file=FileOrigin("dawn.flac", "ab" * 32, 44_100),
)
_DETECTION = Detection(
    event_id=str(UUID(int=1)),
    station="garden",
    station_key="k1",
    sequence=1,
    started_at=DAWN,
    ended_at=DAWN + 3_000_000,
    timezone="Europe/Berlin",
    scientific_name="Parus major",
    common_name="Great Tit",
    probability=0.875,
    threshold=0.5,
    encoder_id="0123456789abcdef",
    n_windows=2,
    latitude=52.5,
    longitude=13.4,
    place="hedge",
    clip="00000000-0000-0000-0000-000000000001.flac",
    source="hw:1",
)
_IMAGE = Image(
    event_id=str(UUID(int=1)),
    station="garden",
    generator_id="fedcba9876543210",
    seed=7,
    is_of_call=True,
    file="2026-05-01/a.png",
    width=64,
    height=64,
    n_bytes=9_000,
    sha256="ab" * 32,
    made_at=DAWN + 5_000_000,
    paint_ms=400.0,
    provider="CPUExecutionProvider",
)
EMBEDDING = b"\x00\x3c" * 512
"""Five hundred and twelve ones"""


def event(number: int = 1, **changes: Any) -> Event:
    """Return an event whose id is `number`."""
    return replace(_EVENT, id=UUID(int=number), **changes)


def detection(number: int = 1, **changes: Any) -> Detection:
    """Return a detection whose id is `number`."""
    return replace(_DETECTION, event_id=str(UUID(int=number)), **changes)


def image(number: int = 1, **changes: Any) -> Image:
    """Return a picture of the event whose id is `number`."""
    return replace(_IMAGE, event_id=str(UUID(int=number)), **changes)


def message(sequence: int) -> Message:
    """Return a message that tells its own place in the order."""
    return Message("fieldstation/garden/detection", b"%d" % sequence)


def interval(started_at: int = DAWN, duration_s: float = 5.0, **changes: Any) -> Interval:
    """Return a stretch that was heard."""
    return replace(Interval("run1", started_at, duration_s, Hearing.HEARD), **changes)
