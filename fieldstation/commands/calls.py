"""Finding the call that is to be painted: in a recording, or in the log and its clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from fieldstation.analysis.classifier import Classifier, Overflow
from fieldstation.analysis.tracker import explain
from fieldstation.audio.files import FileSource
from fieldstation.audio.level import Level, Meter
from fieldstation.bundle import Bundle
from fieldstation.commands.context import Context
from fieldstation.commands.questions import read_log
from fieldstation.errors import MendableError
from fieldstation.generation.conditions import Call, Unpaintable, card_of
from fieldstation.generation.sheet import Sound
from fieldstation.records import Detection, LabelKind, Prediction, Window
from fieldstation.station import make_windower, thresholds

SILENCE_DBFS = -84.0
"""Two steps of 16-bit sound: no microphone is as quiet"""


class NoCall(MendableError):
    """There is nothing to paint: silence, no bird, an unknown one, or no such event."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A call, and what is known of it."""

    call: Call
    common_name: str
    probability: float
    sound: Sound | None = None
    """None where nothing of it was kept"""
    event_id: UUID | None = None


class Listener:
    """An encoder and the settings by which it listens."""

    def __init__(self, bundle: Bundle, classifier: Classifier, context: Context) -> None:
        self.bundle = bundle
        self._classifier = classifier
        self._settings = context.settings
        self.thresholds = thresholds(bundle, context.settings)

    def predictions(self, path: Path, meter: Meter) -> Iterator[Prediction]:
        """Yield what the encoder makes of each window of a recording.

        Raises:
            FileError: it cannot be heard.
            NoCall: its samples are beyond what the encoder computes with.
        """
        channel = self._settings.audio.channel
        zone = ZoneInfo(self._settings.station.timezone)
        source = FileSource(path, None, channel - 1 if channel else None, _keep_quiet, zone)
        windower = make_windower(self.bundle, self._settings)
        for chunk in source:
            meter.add(chunk.samples)
            yield from self._predict(windower.push(chunk))
        yield from self._predict(windower.finish())

    def _predict(self, windows: list[Window]) -> list[Prediction]:
        try:
            return self._classifier.predict(windows)
        except Overflow as error:
            raise NoCall(f"{error}: bring the recording to full scale 1") from error

    def found(self, prediction: Prediction, index: int) -> Found:
        """Return a window as the call of one of the labels."""
        label = self.bundle.labels[index]
        return Found(
            call=Call(label.scientific_name, prediction.embedding, self.bundle.encoder_id),
            common_name=label.common_name,
            probability=float(prediction.probabilities[index]),
            sound=Sound(prediction.window.samples, self.bundle.sample_rate),
        )


def call_in_recording(path: Path, listener: Listener) -> Found:
    """Return the most probable call of a recording, one that the bundle paints if there is one.

    Raises:
        NoCall: silence, no bird, or an unknown one.
        FileError: it cannot be heard.
    """
    if path.is_dir():
        raise NoCall(f"{path} is a folder: name one recording")
    meter, search = Meter(), _Search(listener)
    for prediction in listener.predictions(path, meter):
        search.look_at(prediction)
    if search.best is None:
        raise NoCall(f"{path}: {_why(search, meter.take())}")
    return listener.found(search.best.prediction, search.best.index)


def call_of_event(event_id: UUID, listener: Listener, context: Context) -> Found:
    """Return the call of an event in the log: its embedding as stored, or heard again.

    Raises:
        NoCall: there is no such event.
        Unpaintable: neither its embedding nor its clip is kept.
        StoreError: the log cannot be read.
    """
    detection, embedding = _read_event(event_id, context)
    heard = _hear_clip(detection, listener, context)
    told = Found(
        call=Call(detection.scientific_name, embedding, detection.encoder_id),
        common_name=detection.common_name,
        probability=detection.probability,
        sound=heard.sound if heard else None,
        event_id=event_id,
    )
    known = embedding is not None and detection.encoder_id == card_of(listener.bundle).encoder_id
    if known or listener.bundle.outputs.embedding is None:
        return told
    if heard is not None:
        return replace(told, call=heard.call)
    if embedding is None:
        raise Unpaintable(
            f"event {event_id}: neither its embedding nor its clip is kept: name a recording of it"
        )
    return told  # whose embedding is another encoder's: the painter says so


def _read_event(event_id: UUID, context: Context) -> tuple[Detection, NDArray[np.float32] | None]:
    from fieldstation.store.embeddings import embedding_of
    from fieldstation.store.query import find_detection

    with read_log(context) as log:
        assert log is not None
        detection = find_detection(log, str(event_id))
        if detection is None:
            raise NoCall(
                f"event {event_id} is not in the log: `fieldstation detections --format jsonl` "
                "lists the ids, --database names another log"
            )
        stored = embedding_of(log.database, str(event_id))
    return detection, None if stored is None else np.frombuffer(stored, "<f2").astype(np.float32)


def _hear_clip(detection: Detection, listener: Listener, context: Context) -> Found | None:
    """Return the event's species in its clip, where it is; None where either is not known."""
    names = [label.scientific_name for label in listener.bundle.labels]
    folder = context.state.clips.resolve()
    # A hub's log holds what other stations wrote there.
    path = (folder / (detection.clip or "")).resolve()
    if detection.scientific_name not in names or not path.is_relative_to(folder):
        return None
    if not path.is_file():
        return None
    index = names.index(detection.scientific_name)
    predictions = listener.predictions(path, Meter())
    best = max(predictions, key=lambda p: float(p.probabilities[index]), default=None)
    return listener.found(best, index) if best else None


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A window in which a species reaches its threshold."""

    rank: tuple[bool, float]
    """Whether it is painted, and its probability"""
    index: int
    prediction: Prediction


class _Search:
    """Looks for the best call, window by window, and remembers why there may be none."""

    def __init__(self, listener: Listener) -> None:
        labels, paints = listener.bundle.labels, card_of(listener.bundle).paints
        self.listener = listener
        self.best: _Candidate | None = None
        self.nearest: Prediction | None = None
        """The window with the most probable species, below its threshold or not"""
        self.unknown = False
        """Whether a window's first guess was a bird that is none of the species"""
        self._species = _indices(listener.bundle, LabelKind.SPECIES)
        self._unknown = set(_indices(listener.bundle, LabelKind.UNKNOWN_BIRD))
        self._thresholds = np.array(listener.thresholds)
        self._painted = [label.scientific_name in paints for label in labels]
        self._nearest = -1.0

    def look_at(self, prediction: Prediction) -> None:
        """Take the next window."""
        probabilities = prediction.probabilities
        self.unknown |= int(probabilities.argmax()) in self._unknown
        of_species = probabilities[self._species]
        if of_species.max(initial=-1) > self._nearest:
            self.nearest, self._nearest = prediction, float(of_species.max())
        for index in self._species[of_species >= self._thresholds[self._species]]:
            rank = (self._painted[index], float(probabilities[index]))
            if self.best is None or rank > self.best.rank:
                self.best = _Candidate(rank, int(index), prediction)


def _why(search: _Search, level: Level) -> str:
    """Return in words why nothing is named."""
    if level.peak_dbfs < SILENCE_DBFS:
        return f"it is silent: its loudest sample is at {level.peak_dbfs:.0f} dB full scale"
    if search.nearest is None:
        return "it is too short: it holds less than 0.1 s"
    listener = search.listener
    told = explain(search.nearest, listener.bundle.labels, listener.thresholds)
    if search.unknown:
        return f"a bird is heard, but none that the bundle knows ({told})"
    return f"no bird is heard ({told})"


def _indices(bundle: Bundle, kind: LabelKind) -> NDArray[np.int64]:
    return np.array([i for i, label in enumerate(bundle.labels) if label.kind is kind], np.int64)


def _keep_quiet(path: Path, reason: str) -> None:
    """Pass over what is broken further on: what was heard before it can be painted."""
