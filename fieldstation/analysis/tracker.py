"""From probabilities to events. Pure: it knows neither threads, nor clocks, nor files.

Windows of one label that reach its threshold merge into one event. The event closes at the first
window without the label, where hearing broke off (a gap, another file), at `max_event_s`, or at
the end. Each label is followed on its own, so several birds at once are several events.
Windows decide what is an event; where an encoder says what it heard in each frame of a window,
an event begins and ends with the frames that hold its label.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from fieldstation.clock import US_PER_S
from fieldstation.records import Event, FileOrigin, Label, LabelKind, Prediction, Window

Identify = Callable[[Label, Window], UUID]
"""Names an event by its label and first window"""
FRAME_SHARE = 0.25
"""Of the label's threshold, from which a frame holds the label: less sound says less, and at the
whole of it the faint ends of songs are cut off (docs/decisions/onsets.md)"""


class Tracker:
    """Follows every species from window to window."""

    def __init__(
        self,
        labels: Sequence[Label],
        thresholds: Sequence[float],
        encoder_id: str,
        max_event_s: float,
        identify: Identify,
        sample_rate: int,
    ) -> None:
        """Start with nothing heard.

        Args:
            labels: in logit order.
            thresholds: per label, in 0..1; a probability equal to it reaches it.
            encoder_id: goes into every event.
            max_event_s: no event is longer, unless one window is.
            identify: called once an event, when it begins.
            sample_rate: of the windows, hertz.
        """
        if len(labels) != len(thresholds):
            raise ValueError(f"{len(thresholds)} thresholds for {len(labels)} labels")
        self._labels = tuple(labels)
        self._thresholds = tuple(map(float, thresholds))
        # What only a species can reach: as an array, since there may be thousands of labels.
        self._limits = np.array(
            [
                threshold if label.kind is LabelKind.SPECIES else np.inf
                for label, threshold in zip(self._labels, self._thresholds, strict=True)
            ]
        )
        self._encoder_id = encoder_id
        self._longest = round(max_event_s * US_PER_S)
        self._identify = identify
        self._sample_rate = sample_rate
        self._open: dict[int, _OpenEvent] = {}
        self._file: FileOrigin | None = None

    @property
    def is_open(self) -> bool:
        """Return whether an event is going on."""
        return bool(self._open)

    def update(self, prediction: Prediction) -> list[Event]:
        """Take the next window and return the events that it closed, first begun first.

        Args:
            prediction: of the window after the last one, in time order.
        """
        window = prediction.window
        closed = self.finish() if self._breaks_off(window) else []
        self._file = window.file
        ended_at = _ended_at(window, self._sample_rate)
        heard = self._heard(prediction.probabilities)
        for index in self._open.keys() - set(heard):
            closed.append(self._close(index))
        for index in heard:
            closed += self._extend(index, ended_at, prediction)
        return sorted(closed, key=self._order)

    def finish(self) -> list[Event]:
        """Close what is open: at the end, or as soon as the source is known to have broken off."""
        return sorted(map(self._close, list(self._open)), key=self._order)

    def _breaks_off(self, window: Window) -> bool:
        return window.after_gap or _content(window.file) != _content(self._file)

    def _heard(self, probabilities: NDArray[np.float32]) -> list[int]:
        """Return the index of each species that reached its threshold."""
        if probabilities.shape != (len(self._labels),):
            raise ValueError(f"{probabilities.shape} probabilities for {len(self._labels)} labels")
        reached: list[int] = np.flatnonzero(probabilities >= self._limits).tolist()
        return reached

    def _extend(self, index: int, ended_at: int, prediction: Prediction) -> list[Event]:
        """Let a label's event go on, or begin one; return the events that became full."""
        closed = []
        event = self._open.get(index)
        if event is not None and ended_at - event.began_at > self._longest:
            closed.append(self._close(index))
            event = None
        if event is None:
            event = self._begin(index, prediction.window)
        least = FRAME_SHARE * self._thresholds[index]
        event.add(index, prediction, heard_in(prediction, index, least, self._sample_rate))
        if ended_at - event.began_at >= self._longest:
            closed.append(self._close(index))
        return closed

    def _begin(self, index: int, window: Window) -> _OpenEvent:
        identity = self._identify(self._labels[index], window)
        event = _OpenEvent(identity, window.started_at, window.file)
        self._open[index] = event
        return event

    def _close(self, index: int) -> Event:
        event = self._open.pop(index)
        return Event(
            id=event.id,
            label=self._labels[index],
            started_at=event.heard_from,
            ended_at=event.heard_until,
            probability=event.probability,
            threshold=self._thresholds[index],
            encoder_id=self._encoder_id,
            n_windows=event.n_windows,
            embedding=event.embedding,
            file=event.file,
        )

    def _order(self, event: Event) -> tuple[int, int]:
        return event.started_at, self._labels.index(event.label)


@dataclass(slots=True)
class _OpenEvent:
    """What is known of an event while it goes on."""

    id: UUID
    began_at: int
    """Of its first window: what limits its length"""
    file: FileOrigin | None
    heard_from: int = sys.maxsize
    heard_until: int = -sys.maxsize
    probability: float = -1.0
    n_windows: int = 0
    embedding: NDArray[np.float32] | None = None

    def add(self, index: int, prediction: Prediction, heard: tuple[int, int]) -> None:
        """Take one more window; of equally probable ones the first stays the best."""
        self.n_windows += 1
        self.heard_from = min(self.heard_from, heard[0])
        self.heard_until = max(self.heard_until, heard[1])
        probability = float(prediction.probabilities[index])
        if probability > self.probability:
            self.probability = probability
            self.embedding = prediction.embedding


def heard_in(prediction: Prediction, index: int, least: float, sample_rate: int) -> tuple[int, int]:
    """Return the instants from which and until which a window holds a label.

    Args:
        least: probability from which a frame holds it; where no frame does, or there are none,
            the whole window does.
    """
    window = prediction.window
    whole = window.started_at, _ended_at(window, sample_rate)
    if prediction.frames is None:
        return whole
    holding = np.flatnonzero(prediction.frames[index] >= least)
    if not holding.size:
        return whole
    frame_us = len(window.samples) * US_PER_S / sample_rate / prediction.frames.shape[1]
    first = window.started_at + round(int(holding[0]) * frame_us)
    end = min(window.started_at + round((int(holding[-1]) + 1) * frame_us), whole[1])
    return (first, end) if first < end else whole


def explain(prediction: Prediction, labels: Sequence[Label], thresholds: Sequence[float]) -> str:
    """Return one line on what a window gave, or why it gave nothing."""
    ranked = sorted(
        zip(map(float, prediction.probabilities), labels, thresholds, strict=True),
        key=lambda entry: -entry[0],
    )
    species = [entry for entry in ranked if entry[1].kind is LabelKind.SPECIES]
    heard = [entry for entry in species if entry[0] >= entry[2]]
    if heard:
        return ", ".join(f"{label.common_name} {p:.2f} of {t:.2f}" for p, label, t in heard)
    reasons = [
        f"best species {label.common_name} {p:.2f}, needs {t:.2f}" for p, label, t in species
    ]
    if ranked[0][1].kind is not LabelKind.SPECIES:
        reasons.insert(0, f"{ranked[0][1].common_name} {ranked[0][0]:.2f}")
        return "; ".join(reasons[:2])
    return reasons[0]


def _content(file: FileOrigin | None) -> tuple[str, str] | None:
    return None if file is None else (file.path, file.content_hash)


def _ended_at(window: Window, sample_rate: int) -> int:
    """Return the instant after a window's last sample that was heard."""
    n = len(window.samples) - window.n_padding
    return window.started_at + n * US_PER_S // sample_rate
