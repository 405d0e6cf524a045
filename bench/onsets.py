"""How near to a call its event begins and ends: by window borders, and by the encoder's frames.

    python bench/onsets.py --bundle RUN/bundle --data FOLDER --fold 0

Calls are cut from recordings of the fold that the encoder never heard, where sound rises out of
0.5 s of quiet, and laid at random instants over backgrounds; each scene goes through the station's
windows, encoder and tracker. Truth is where loudness rises and falls: a recording's species may
begin later than its first sound, so the largest errors are the truth's too. The same predictions
are tracked with frames, at several shares of the threshold, and without; over sound without birds
and over birds of other species.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.analysis import tracker
from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.clock import US_PER_S, SystemClock
from fieldstation.config import Settings
from fieldstation.records import AudioChunk, Event, Prediction
from fieldstation.station import Ear, make_ear
from trainer.data.audio import decode
from trainer.data.recordings import Recording
from trainer.evaluation.events import WHO
from trainer.evaluation.machine import processor
from trainer.evaluation.truth import read_truth

RESULT = Path(__file__).parent / "results" / "onsets.json"
SHARES = (1.0, 0.5, tracker.FRAME_SHARE, 0.1)
BEDS = ("background", "other_birds")
"""Folders beside the recordings"""
SCENE_S = 14.0
CALL_AT_S = 3.0, 6.0
LONGEST_CALL_S = 5.0
SHORTEST_CALL_S = 0.2
QUIET_S = 0.5
FADE_S = 0.02
CALLS_PER_RECORDING = 3
ABOVE_BACKGROUND_DB: tuple[int | None, ...] = (6, 12, 20, None)
"""None: nothing but the call"""
CALL_LEVEL = 0.02
"""Root mean square of a call's first difference"""
GRAIN_S = 0.025
PEAK_WITHIN_DB, ACTIVE_WITHIN_DB, ABOVE_FLOOR_DB = 8, 20, 8
"""A call has a peak this near to its recording's, and ends where it falls this far below that, or
this near to the recording's quiet"""

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A call whose place is known."""

    samples: Samples
    species: str
    start_s: float
    end_s: float
    above_db: int | None


@dataclass(frozen=True, slots=True)
class Heard:
    """An event beside its call, in seconds."""

    onset_error: float
    """Negative: too early"""
    end_error: float
    shared: float
    """Seconds that are in both"""
    told: float
    there: float


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bundle", required=True)
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    options.add_argument("--fold", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    if bundle.outputs.frame_logits is None:
        raise SystemExit(f"{bundle.path} has no frame_logits: export it anew")
    result = circumstances(bundle, chosen)
    for beds in BEDS:
        rng = np.random.default_rng(chosen.seed)
        folder = chosen.data.parent / beds
        scenes = list(scenes_of(chosen.data, chosen.fold, folder, bundle, rng))
        result |= {f"over_{beds}": {"n_scenes": len(scenes), **judged(bundle, scenes)}}
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def scenes_of(
    data: Path, fold: int, beds_in: Path, bundle: Bundle, rng: np.random.Generator
) -> Iterator[Scene]:
    """Yield each call of a fold at each level, over a recording of its own."""
    rate = bundle.sample_rate
    beds = [decode(r.path, rate) for r in read_truth(beds_in).recordings]
    beds = [bed for bed in beds if loudness(bed) > 0]
    known = {label.scientific_name for label in bundle.species}
    for recording in read_truth(data, fold).recordings:
        if recording.scientific_name not in known:
            continue
        for call in calls_of(recording, rate, rng):
            for above_db in ABOVE_BACKGROUND_DB:
                bed = beds[rng.integers(len(beds))]
                yield scene_of(call, bed, recording.scientific_name, above_db, rate, rng)


def calls_of(recording: Recording, rate: int, rng: np.random.Generator) -> list[Samples]:
    """Return some of a recording's calls, each from where it rises to where it falls."""
    samples = decode(recording.path, rate)
    grain = round(GRAIN_S * rate)
    energy = np.diff(samples, prepend=samples[:1]).astype(np.float64) ** 2
    level = 10 * np.log10(energy[: len(energy) // grain * grain].reshape(-1, grain).mean(1) + 1e-13)
    spans = [(a * grain, b * grain) for a, b in loud_spans(level)]
    rng.shuffle(spans)
    return [samples[a:b] for a, b in spans[:CALLS_PER_RECORDING]]


def loud_spans(level: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return where loudness, in decibels a grain, rises out of quiet and where it falls again."""
    floor, peak = np.percentile(level, [10, 99])
    loud = np.flatnonzero(level > max(floor + ABOVE_FLOOR_DB, peak - ACTIVE_WITHIN_DB))
    quiet = round(QUIET_S / GRAIN_S)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > quiet) + 1)
    return [
        (int(g[0]), int(min(g[-1] + 1, g[0] + LONGEST_CALL_S / GRAIN_S)))
        for g in groups
        if len(g) * GRAIN_S >= SHORTEST_CALL_S
        and g[0] >= quiet
        and level[g].max() >= peak - PEAK_WITHIN_DB
    ]


def scene_of(
    call: Samples,
    bed: Samples,
    species: str,
    above_db: int | None,
    rate: int,
    rng: np.random.Generator,
) -> Scene:
    """Return a call laid over a background, so many decibels louder than it."""
    n, fade = round(SCENE_S * rate), round(FADE_S * rate)
    samples = np.zeros(n, np.float32)
    if above_db is not None:
        start = rng.integers(len(bed))
        samples = np.tile(bed, -(-n // len(bed)) + 1)[start : start + n]
        samples = samples * np.float32(CALL_LEVEL / loudness(bed) * 10 ** (-above_db / 20))
    call = call * np.float32(CALL_LEVEL / loudness(call))
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    call[:fade] *= ramp
    call[-fade:] *= ramp[::-1]
    first = round(rng.uniform(*CALL_AT_S) * rate)
    samples[first : first + len(call)] += call
    return Scene(samples, species, first / rate, (first + len(call)) / rate, above_db)


def loudness(samples: Samples) -> float:
    """Return the root mean square of the first difference, which weighs song above rumble."""
    return float(np.sqrt(np.square(np.diff(samples)).mean()))


def judged(bundle: Bundle, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Return how near events come to calls, without frames and with them."""
    classifier = Classifier(bundle, "cpu")
    ways: Mapping[str, float | None] = {"windows": None, **{f"frames_{s:g}": s for s in SHARES}}
    found: dict[str, list[Heard | None]] = {way: [] for way in ways}
    for scene in scenes:
        ear = fresh_ear(bundle, classifier)
        chunk = AudioChunk(scene.samples, bundle.sample_rate, 0)
        predictions = classifier.predict([*ear.windower.push(chunk), *ear.windower.finish()])
        for way, share in ways.items():
            events = followed(fresh_ear(bundle, classifier), predictions, share)
            found[way].append(beside(scene, events))
    levels = [scene.above_db for scene in scenes]
    return {
        way: summary(heard)
        | {
            "median_abs_onset_error_s_at": {
                "silence" if db is None else f"{db}_db": summary(
                    [h for h, level in zip(heard, levels, strict=True) if level == db]
                ).get("median_abs_onset_error_s")
                for db in ABOVE_BACKGROUND_DB
            }
        }
        for way, heard in found.items()
    }


def fresh_ear(bundle: Bundle, classifier: Classifier) -> Ear:
    """Return a station's ear that has heard nothing."""
    return make_ear(bundle, classifier, Settings(), WHO, SystemClock())


def followed(ear: Ear, predictions: Sequence[Prediction], share: float | None) -> list[Event]:
    """Return the events of a scene; with frames from a share of the threshold on, or without."""
    if share is None:
        predictions = [replace(prediction, frames=None) for prediction in predictions]
    with frame_share(share or tracker.FRAME_SHARE):
        events = [event for p in predictions for event in ear.tracker.update(p)]
        return events + ear.tracker.finish()


@contextmanager
def frame_share(share: float) -> Iterator[None]:
    """Let the tracker take another share of the threshold for a while."""
    usual = tracker.FRAME_SHARE
    tracker.FRAME_SHARE = share
    try:
        yield
    finally:
        tracker.FRAME_SHARE = usual


def beside(scene: Scene, events: Iterable[Event]) -> Heard | None:
    """Return the event of the call's species that shares most with it; None where none does."""
    there = scene.end_s - scene.start_s
    found = []
    for event in events:
        start_s, end_s = event.started_at / US_PER_S, event.ended_at / US_PER_S
        shared = min(end_s, scene.end_s) - max(start_s, scene.start_s)
        if event.label.scientific_name == scene.species and shared > 0:
            errors = start_s - scene.start_s, end_s - scene.end_s
            found.append(Heard(*errors, shared, end_s - start_s, there))
    return max(found, key=lambda heard: heard.shared, default=None)


def summary(found: Sequence[Heard | None]) -> dict[str, Any]:
    """Return medians of the errors, and how much of the calls and of the events is the other.

    Where no event was told, no more than that.
    """
    heard = [h for h in found if h is not None]
    if not heard:
        return {"n_heard": 0}
    onset = np.array([h.onset_error for h in heard])
    end = np.array([h.end_error for h in heard])
    told, there, shared = (
        sum(getattr(h, name) for h in heard) for name in ("told", "there", "shared")
    )
    return {
        "n_heard": len(heard),
        "median_abs_onset_error_s": round(float(np.median(abs(onset))), 3),
        "mean_abs_onset_error_s": round(float(np.mean(abs(onset))), 3),
        "onset_error_percentiles_s": percentiles(onset),
        "median_abs_end_error_s": round(float(np.median(abs(end))), 3),
        "mean_abs_end_error_s": round(float(np.mean(abs(end))), 3),
        "end_error_percentiles_s": percentiles(end),
        "share_of_calls_in_events": round(shared / there, 3),
        "share_of_events_that_is_call": round(shared / told, 3),
        "f1_by_time": round(2 * shared / (told + there), 3),
    }


def percentiles(errors: NDArray[np.float64]) -> dict[str, float]:
    """Return the 10th, 50th and 90th."""
    return {str(p): round(float(np.percentile(errors, p)), 3) for p in (10, 50, 90)}


def circumstances(bundle: Bundle, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured, on what, with what."""
    return {
        "bundle": bundle.name,
        "encoder_id": bundle.encoder_id,
        "fold_left_out": bundle.trained_on.get("fold"),
        "fold": chosen.fold,
        "frame_share": tracker.FRAME_SHARE,
        "seed": chosen.seed,
        "machine": processor(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
    }


if __name__ == "__main__":
    main()
