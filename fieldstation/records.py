"""Every value that crosses a module boundary.

Instants are integer microseconds since the Unix epoch, UTC, and end in `_at`; durations are
seconds and end in `_s`. Records are frozen; those that hold arrays compare by identity, since
comparing arrays is not a truth value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """A run of consecutive mono samples from one source."""

    samples: Samples
    """float32 [n], full scale ±1"""
    sample_rate: int
    """Hertz"""
    captured_at: int
    """Instant of the first sample"""
    gap: int = 0
    """Samples lost just before this chunk (at `sample_rate`)"""
    cause: str = ""
    """Why they were lost: `overflow`, `microphone`, …; empty without a gap"""
    n_clipped: int = 0
    """Samples at full scale"""
    file: FileOrigin | None = None
    """Where the samples stand in a file; None from a microphone"""


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """The file that a chunk or window was read from, known by its content."""

    path: str
    content_hash: str
    """sha256 of the file's bytes, hexadecimal"""
    first_sample: int
    """Index of the chunk's first sample in the file, at the file's own rate"""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the encoder listens to at once: exactly the bundle's samples at the bundle's rate."""

    samples: Samples
    """float32 [samples_per_window]"""
    started_at: int
    """Instant of the first sample"""
    offset: int
    """Index of the first sample since the last gap or the file's start, at the bundle's rate"""
    n_new: int
    """Samples in it that no earlier window held"""
    after_gap: bool = False
    """Nothing was heard between the window before and this one"""
    n_padding: int = 0
    """Zeros at the end, where the audio ended first"""
    file: FileOrigin | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the encoder made of one window."""

    window: Window
    probabilities: NDArray[np.float32]
    """float32 [labels], calibrated, in the bundle's label order"""
    embedding: NDArray[np.float32] | None = None
    """float32 [512], or None where the bundle has none"""
    frames: NDArray[np.float32] | None = None
    """float32 [labels, frames], how probable each label is in each of the equal parts of the
    window; None where the bundle does not say"""


class LabelKind(StrEnum):
    """What a label stands for: only a species makes an event."""

    SPECIES = "species"
    NO_BIRD = "no_bird"
    UNKNOWN_BIRD = "unknown_bird"


@dataclass(frozen=True, slots=True)
class Label:
    """One output of the encoder."""

    scientific_name: str
    common_name: str
    kind: LabelKind = LabelKind.SPECIES


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One bird heard once: windows of one label, merged and closed."""

    id: UUID
    label: Label
    started_at: int
    """When it was first heard: a frame's begin, where the bundle has frames, else a window's"""
    ended_at: int
    """When it was last heard, likewise"""
    probability: float
    """Highest of its windows"""
    threshold: float
    """What the label had to reach"""
    encoder_id: str
    n_windows: int = 1
    embedding: NDArray[np.float32] | None = None
    """float32 [512] of its most probable window"""
    file: FileOrigin | None = None
    """`first_sample` is that of its first window"""


class ClipState(StrEnum):
    """What became of an event's recording."""

    WAITING = "waiting"
    WRITTEN = "written"
    WITHHELD = "withheld"
    """A human voice was in it"""
    OFF = "off"
    MISSING = "missing"
    """The disk refused it, or the ring no longer held it"""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to the broker."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that waits for its receipt. `sequence` is the station's order, never the clock."""

    sequence: int
    id: str
    """The event's id, or another unique id for what is not an event"""
    message: Message


@dataclass(frozen=True, slots=True)
class Detection:
    """A row of the log: an event as its message told it."""

    event_id: str
    station: str
    station_key: str
    sequence: int
    started_at: int
    ended_at: int
    timezone: str
    scientific_name: str
    common_name: str
    probability: float
    threshold: float
    encoder_id: str
    n_windows: int = 1
    latitude: float | None = None
    longitude: float | None = None
    place: str | None = None
    clip: str | None = None
    """File name below the station's clip folder, or None"""
    source: str | None = None
    """File or device it was heard from"""
    embedding: bytes | None = None
    """float16 little-endian [512]"""


class Hearing(StrEnum):
    """Whether the station heard, for the coverage ledger."""

    HEARD = "heard"
    LOST = "lost"
    CLOCK_STEP = "clock_step"
    """Not an interval of either: the wall clock jumped by `duration_s`"""


FILE_RUN = "file-"
"""Begins the run id of an interval that a recording holds; the rest is of its content's hash"""


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of a run in which the station heard, or did not and why."""

    run_id: str
    started_at: int
    duration_s: float
    """By the monotonic clock; of a clock step, wall minus monotonic (signed)"""
    state: Hearing
    cause: str = ""
    """stopped, starting, microphone, dead, overflow, asleep, behind or disk; empty where heard"""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message that does not fit, kept with the reason."""

    received_at: int
    topic: str
    payload: bytes
    reason: str


class JobState(StrEnum):
    """What became of the wish for an event's picture."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    """A worker paints it, until its lease ends"""
    DONE = "done"
    PARKED = "parked"
    """It cannot be painted; a person may ask again"""
    DROPPED = "dropped"
    """It gave way to others: the queue is bounded"""


@dataclass(frozen=True, slots=True)
class Job:
    """An event that a worker has claimed, with what its picture is painted from and tells."""

    id: int
    event_id: str
    station: str
    started_at: int
    timezone: str
    scientific_name: str
    common_name: str
    probability: float
    encoder_id: str
    embedding: bytes | None
    """float16 little-endian [512]; None: the species alone is painted"""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of an event; event, generator and seed name it."""

    event_id: str
    station: str
    generator_id: str
    seed: int
    is_of_call: bool
    """Painted from the call's embedding; else from the species alone"""
    file: str | None
    """Below the folder of pictures; None once it was removed"""
    width: int
    height: int
    n_bytes: int
    sha256: str
    made_at: int
    paint_ms: float | None = None
    """Its share of the batch it was painted in; None where somebody else painted it"""
    provider: str | None = None
    """What ran the generator"""

    def at(self, file: str, made_at: int) -> Image:
        """Return the picture as a log has it that keeps it there since then."""
        return replace(self, file=file, made_at=made_at)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with what is told of its event."""

    image: Image
    scientific_name: str
    common_name: str
    probability: float
    started_at: int
    timezone: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a station stands."""

    name: str | None = None
    latitude: float | None = None
    """Degrees north"""
    longitude: float | None = None
    """Degrees east"""


@dataclass(frozen=True, slots=True)
class StationIdentity:
    """Who speaks: a name for people, a random key made at the first start for machines."""

    name: str
    key: str
    timezone: str
    """IANA zone"""
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, slots=True)
class Health:
    """A station's state, told every minute and never queued."""

    at: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `fieldstation check`."""

    name: str
    ok: bool
    detail: str
    """What was found, or what to mend"""
