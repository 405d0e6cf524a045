"""READ THIS FIRST: chunk -> window -> probabilities -> event -> one transaction.

A `Station` is what happens to sound, in order, without threads: a test (or `replay`) drives it
by hand, `service.py` drives it from a thread. It never waits for a disk: what it hands to the
recorder and to the clips is taken up by their own threads.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from fieldstation import identity
from fieldstation.analysis.classifier import Classifier, Overflow
from fieldstation.analysis.tracker import Tracker
from fieldstation.audio.windows import Windower
from fieldstation.bundle import Bundle
from fieldstation.clips.writer import clip_name
from fieldstation.clock import US_PER_S, Clock, local
from fieldstation.config import ConfigError, Settings
from fieldstation.mqtt.messages import detection_message
from fieldstation.records import (
    AudioChunk,
    ClipState,
    Detection,
    Event,
    Label,
    Message,
    Prediction,
    StationIdentity,
    Window,
)

log = logging.getLogger(__name__)

Compose = Callable[[int], Message]
"""Outbox sequence -> the message that goes with an event"""


class EventSink(Protocol):
    """Where a closed event goes; `compose` is called inside the event's own transaction."""

    def post_event(self, event: Event, compose: Compose, clip: ClipState) -> object:
        """Take the event over; never wait."""
        ...


class Ledger(Protocol):
    """Where it is noted that a chunk was heard."""

    def heard(self, chunk: AudioChunk) -> None:
        """Note it."""
        ...


class Clips(Protocol):
    """Where an event's recording is cut from."""

    def hear(self, chunk: AudioChunk) -> None:
        """Remember a chunk for as long as an event may need it."""
        ...

    def post(self, event: Event) -> None:
        """Cut the event's clip when its post-roll has been heard."""
        ...


@dataclass(frozen=True, slots=True)
class Ear:
    """What one pass over a source needs: made anew for each source, since it holds its state."""

    windower: Windower
    classifier: Classifier
    tracker: Tracker


class Station:
    """The way from sound to events, in order."""

    def __init__(
        self,
        ear: Ear,
        recorder: Recorder,
        ledger: Ledger,
        clips: Clips | None = None,
        on_trace: Callable[[Prediction], None] | None = None,
    ) -> None:
        self._ear = ear
        self._recorder = recorder
        self._ledger = ledger
        self._clips = clips
        self._on_trace = on_trace
        self.n_overflows = 0
        """Windows that were heard, and of which the encoder made nothing"""

    def process(self, chunk: AudioChunk) -> list[Event]:
        """Hear one chunk; return the events that it closed, already handed to the recorder."""
        self._ledger.heard(chunk)
        if self._clips:
            self._clips.hear(chunk)
        return self._name(self._ear.windower.push(chunk))

    def finish(self) -> list[Event]:
        """Hear what is left and close every open event: the source ended or the station stops."""
        events = self._name(self._ear.windower.finish())
        return events + self._record(self._ear.tracker.finish())

    def _name(self, windows: list[Window]) -> list[Event]:
        try:
            predictions = self._ear.classifier.predict(windows)
        except Overflow as overflow:
            if len(windows) > 1:
                return [event for window in windows for event in self._name([window])]
            return self._pass_over(overflow)
        events: list[Event] = []
        for prediction in predictions:
            if self._on_trace:
                self._on_trace(prediction)
            events += self._record(self._ear.tracker.update(prediction))
        return events

    def _pass_over(self, overflow: Overflow) -> list[Event]:
        """Leave a window out; no event goes on over it."""
        self.n_overflows += 1
        log.warning("%s: not analysed, number %d", overflow, self.n_overflows)
        return self._record(self._ear.tracker.finish())

    def _record(self, events: Iterable[Event]) -> list[Event]:
        events = list(events)
        for event in events:
            self._recorder.record(event)
            if self._clips:
                self._clips.post(event)
        return events


class Recorder:
    """Gives each event its message, and both to the sink."""

    def __init__(
        self,
        who: StationIdentity,
        sink: EventSink,
        source: str | None,
        *,
        with_clip: bool = False,
        with_embedding: bool = False,
    ) -> None:
        """Say who speaks.

        Args:
            sink: takes events.
            source: the live source's name; an event from a file names the file.
            with_clip: whether a clip is being made of each event.
            with_embedding: whether messages carry the call's embedding.
        """
        self._who = who
        self._sink = sink
        self._source = source
        self._with_clip = with_clip
        self._with_embedding = with_embedding

    def record(self, event: Event) -> None:
        """Post the event together with the message that tells it."""
        log.info("%s", describe(event, self._who.timezone))
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Post an event, perhaps one that is there already and has lost its message."""
        clip = ClipState.WAITING if self._with_clip else ClipState.OFF
        self._sink.post_event(
            event, lambda sequence: detection_message(self._tell(event, sequence)), clip
        )

    def _tell(self, event: Event, sequence: int) -> Detection:
        embedding = event.embedding if self._with_embedding else None
        return Detection(
            event_id=str(event.id),
            station=self._who.name,
            station_key=self._who.key,
            sequence=sequence,
            started_at=event.started_at,
            ended_at=event.ended_at,
            timezone=self._who.timezone,
            scientific_name=event.label.scientific_name,
            common_name=event.label.common_name,
            probability=event.probability,
            threshold=event.threshold,
            encoder_id=event.encoder_id,
            n_windows=event.n_windows,
            latitude=self._who.place.latitude,
            longitude=self._who.place.longitude,
            place=self._who.place.name,
            clip=clip_name(event, self._who.timezone) if self._with_clip else None,
            source=event.file.path if event.file else self._source,
            embedding=None if embedding is None else embedding.astype("<f2").tobytes(),
        )


def describe(event: Event, timezone: str) -> str:
    """Return an event as one line for people."""
    seconds = (event.ended_at - event.started_at) / US_PER_S
    return (
        f"{local(event.started_at, timezone):%Y-%m-%d %H:%M:%S}  {event.probability:.2f}  "
        f"{event.label.common_name} ({event.label.scientific_name}), {seconds:.1f} s"
    )


def make_ear(
    bundle: Bundle, classifier: Classifier, settings: Settings, who: StationIdentity, clock: Clock
) -> Ear:
    """Return a fresh ear for one source."""
    tracker = Tracker(
        bundle.labels,
        thresholds(bundle, settings),
        bundle.encoder_id,
        settings.events.max_event_s,
        identifier(who, bundle.encoder_id, clock),
        bundle.sample_rate,
    )
    return Ear(make_windower(bundle, settings), classifier, tracker)


def make_windower(bundle: Bundle, settings: Settings) -> Windower:
    """Return what cuts a source into the bundle's windows, every `model.hop_s`."""
    hop_s = settings.model.hop_s or bundle.window_s / 2
    hop = max(1, min(round(hop_s * bundle.sample_rate), bundle.samples_per_window))
    return Windower(bundle.sample_rate, bundle.samples_per_window, hop)


def identifier(
    who: StationIdentity, encoder_id: str, clock: Clock
) -> Callable[[Label, Window], UUID]:
    """Return what names an event: live a UUIDv7, from a file a UUIDv5 that any replay repeats."""

    def identify(label: Label, window: Window) -> UUID:
        if window.file is None:
            return identity.uuid7(clock.wall())
        return identity.file_event_id(
            who.name,
            window.file.content_hash,
            label.scientific_name,
            window.file.first_sample,
            encoder_id,
        )

    return identify


def thresholds(bundle: Bundle, settings: Settings) -> tuple[float, ...]:
    """Return the bundle's thresholds with the user's laid on top.

    Raises:
        ConfigError: a threshold is set for a species that the bundle does not know.
    """
    chosen = dict(
        zip((label.scientific_name for label in bundle.labels), bundle.thresholds, strict=True)
    )
    for name, threshold in settings.model.thresholds.items():
        if name not in chosen:
            nearest = difflib.get_close_matches(name, chosen, n=3, cutoff=0.0)
            raise ConfigError(
                f"model.thresholds names {name!r}, which bundle {bundle.name} does not know: "
                f"correct or remove it: the nearest of its {len(chosen)} labels are "
                f"{', '.join(nearest)}"
            )
        chosen[name] = threshold
    return tuple(chosen.values())
