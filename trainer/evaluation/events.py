"""Events beside a person's: what the station would have told of files in which all is named.

A file goes through the station itself (windows, encoder, tracker), so an event's times are those
that a log would have. Windows are seconds long and calls in a row become one event; so an event
is right, and a call found, where the two overlap at all, and F1 is also taken by the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from fieldstation.analysis.classifier import Classifier
from fieldstation.audio.files import FileError, FileSource
from fieldstation.bundle import Bundle
from fieldstation.clock import US_PER_S, SystemClock
from fieldstation.config import Settings
from fieldstation.records import AudioChunk, ClipState, Event, StationIdentity
from fieldstation.station import Compose, Recorder, Station, make_ear
from trainer.data.recordings import Recording
from trainer.evaluation.hearing import Bools, species_targets
from trainer.evaluation.measures import ratio
from trainer.evaluation.truth import Annotation

WHO = StationIdentity("evaluation", "0" * 16, "UTC")
SEGMENT_S = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a file with one label: an event that was told, or a call that was there."""

    label: int
    start_s: float
    end_s: float


class Nowhere:
    """Takes a station's events and notes, and keeps none: its return values are enough."""

    def post_event(self, event: Event, compose: Compose, clip: ClipState) -> None:
        """Drop an event."""

    def heard(self, chunk: AudioChunk) -> None:
        """Note nothing."""


def judge_events(
    bundle: Bundle, annotations: Mapping[Path, Sequence[Annotation]]
) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """Return precision, recall and F1 of a bundle's events in annotated files, and what it skipped.

    `event_f1` is None where no file is annotated, or nothing was told and nothing was there.
    """
    classifier = Classifier(bundle, "cpu")
    counts, skipped = np.zeros(7), []
    n_files = n_unknown = 0
    for path, heard in annotations.items():
        try:
            source = FileSource(path, None, None, lambda *_: None, ZoneInfo("UTC"))
            spans = spans_of(bundle, heard, source.total_s)
            told = station_events(bundle, classifier, source)
        except (FileError, ValueError) as error:
            skipped.append((path, str(error)))
            continue
        n_files, n_unknown = n_files + 1, n_unknown + len(heard) - len(spans)
        counts += [*overlaps(told, spans), *segments(told, spans)]
    return _report(counts, n_files, n_unknown), skipped


def station_events(bundle: Bundle, classifier: Classifier, source: FileSource) -> list[Span]:
    """Return the events that a station with this bundle would tell of a file.

    Raises:
        FileError: it cannot be heard.
        ValueError: its samples overflow the encoder.
    """
    ear = make_ear(bundle, classifier, Settings(), WHO, SystemClock())
    station = Station(ear, Recorder(WHO, Nowhere(), None), Nowhere())
    events = [event for chunk in source for event in station.process(chunk)]
    events += station.finish()
    began_at = source.recordings[0].started_at
    place = {label: index for index, label in enumerate(bundle.labels)}
    return [
        Span(
            place[event.label],
            (event.started_at - began_at) / US_PER_S,
            (event.ended_at - began_at) / US_PER_S,
        )
        for event in events
    ]


def spans_of(bundle: Bundle, annotations: Iterable[Annotation], duration_s: float) -> list[Span]:
    """Return the annotations whose species the bundle knows; none lasts longer than its file.

    Raises:
        ValueError: one begins after the file has ended, so the times are of another file.
    """
    annotations = list(annotations)
    if late := [a.start_s for a in annotations if a.start_s >= duration_s]:
        raise ValueError(
            f"a call is said to begin at {late[0]:g} s, and the file ends at {duration_s:g} s: "
            "count times from the file's own beginning"
        )
    wanted = [Recording(Path(), "", scientific_name=a.scientific_name) for a in annotations]
    return [
        Span(int(label), a.start_s, min(a.end_s, duration_s))
        for a, label in zip(annotations, species_targets(bundle, wanted), strict=True)
        if label >= 0
    ]


def overlaps(told: Sequence[Span], spans: Sequence[Span]) -> tuple[int, int, int, int]:
    """Return how many events are right, of how many; how many calls are found, of how many."""
    right = sum(any(meets(event, span) for span in spans) for event in told)
    found = sum(any(meets(event, span) for event in told) for span in spans)
    return right, len(told), found, len(spans)


def meets(event: Span, span: Span) -> bool:
    """Return whether an event and a call are of one species and share an instant."""
    return event.label == span.label and event.start_s < span.end_s and span.start_s < event.end_s


def segments(told: Sequence[Span], spans: Sequence[Span]) -> tuple[int, int, int]:
    """Return in how many seconds a species is told and there, is told, and is there."""
    both = is_told = is_there = 0
    for label in {e.label for e in (*told, *spans)}:
        one = _seconds_of([e for e in told if e.label == label])
        other = _seconds_of([s for s in spans if s.label == label])
        n = max(len(one), len(other))
        one, other = np.pad(one, (0, n - len(one))), np.pad(other, (0, n - len(other)))
        both += int((one & other).sum())
        is_told += int(one.sum())
        is_there += int(other.sum())
    return both, is_told, is_there


def _seconds_of(spans: Sequence[Span]) -> Bools:
    """Return whether each second of the file is touched by one of some spans."""
    touched = np.zeros(int(np.ceil(max((s.end_s for s in spans), default=0) / SEGMENT_S)), np.bool_)
    for span in spans:
        first = int(span.start_s / SEGMENT_S)
        touched[first : int(np.ceil(span.end_s / SEGMENT_S))] = True
    return touched


def _report(counts: np.ndarray, n_files: int, n_unknown: int) -> dict[str, Any]:
    right, told, found, there, both, seconds_told, seconds_there = counts.tolist()
    precision, recall = ratio(right, told), ratio(found, there)
    return {
        "event_f1": _f1(precision, recall),
        "event_precision": _shown(precision),
        "event_recall": _shown(recall),
        "segment_f1": _shown(ratio(2 * both, seconds_told + seconds_there)),
        "n_event_files": n_files,
        "n_events_told": int(told),
        "n_events_there": int(there),
        "n_events_of_other_species": n_unknown,
    }


def _f1(precision: float, recall: float) -> float | None:
    """Return the harmonic mean; 0 where only one of told and there is anything."""
    if np.isnan(precision) and np.isnan(recall):
        return None
    if np.isnan(precision) or np.isnan(recall) or precision + recall == 0:
        return 0.0
    return round(2 * precision * recall / (precision + recall), 4)


def _shown(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
