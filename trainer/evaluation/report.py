"""The report on an encoder: everything that a folder allows to be measured, as JSON and as text."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldstation.bundle import Bundle, BundleError, find_bundle, load_bundle
from trainer.data.recordings import Recording, content_hash
from trainer.evaluation.events import judge_events
from trainer.evaluation.hearing import Heard, hear
from trainer.evaluation.machine import installed, processor
from trainer.evaluation.measures import (
    accuracy,
    best_species,
    by_species,
    calibration,
    events_by_recording,
    strangers,
)
from trainer.evaluation.peers import judge_birdnet
from trainer.evaluation.recordists import by_recordist
from trainer.evaluation.truth import read_truth

VERSIONS = ("fieldstation", "numpy", "onnxruntime", "soundfile", "soxr")
SEED = 0
"""Of the bootstrap"""
HEADLINES = ("recording_top1", "window_top1", "macro", "cmap", "ece")
SEPARATIONS = ("unknown_auroc", "unknown_auroc_by_peak", "background_auroc")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A bundle on a folder: the report, and what a page shows besides."""

    report: Mapping[str, Any]
    bundle: Bundle
    recordings: tuple[Recording, ...]
    heard: Heard


def evaluate_encoder(
    bundle_name: str,
    data: Path,
    cache: Path,
    fold: int | None = None,
    peer_model: Path | None = None,
) -> Evaluation:
    """Judge a bundle by a folder, or one fold of it.

    Args:
        cache: where a peer's answers are kept.
        peer_model: BirdNET's, which is then judged beside; None leaves it out.

    Raises:
        BundleError, DataError: one of them cannot be used.
    """
    began = time.monotonic()
    bundle = load_bundle(find_bundle(bundle_name))
    if not bundle.species:
        raise BundleError(f"bundle {bundle.name} has no label that is a species: nothing to judge")
    truth = read_truth(data, fold)
    heard, recordings, unheard = hear(bundle, truth.recordings)
    events, not_played = judge_events(bundle, truth.annotations)
    peer = None
    if peer_model is not None and recordings:
        peer, _ = judge_birdnet(bundle, heard, recordings, peer_model, cache)
    unplayed = ((os.path.relpath(path, data), reason) for path, reason in not_played)
    skipped = (*truth.skipped, *unheard, *unplayed)
    report = {
        **card(bundle, data, fold, recordings, heard),
        "skipped": dict(skipped),
        **measure(bundle, heard, recordings),
        **events,
        "peer": peer,
        "seconds": round(time.monotonic() - began, 1),
    }
    return Evaluation(report, bundle, recordings, heard)


def card(
    bundle: Bundle, data: Path, fold: int | None, recordings: Sequence[Recording], heard: Heard
) -> dict[str, Any]:
    """Return what was measured, on what, with what."""
    return {
        "bundle": bundle.name,
        "encoder_id": bundle.encoder_id,
        "trained_fold": bundle.trained_on.get("fold"),
        "caution": caution(bundle.trained_on, fold),
        "data": data.resolve().name,
        "fold": fold,
        "data_hash": content_hash(recordings),
        "device": processor(),
        "seed": SEED,
        "versions": {"python": platform.python_version(), **installed(VERSIONS)},
        "recording_score": "mean of the windows' probabilities",
        "n_recordings": len(recordings),
        "n_windows": len(heard.owner),
        "n_known": int((heard.target >= 0).sum()),
    }


def caution(trained_on: Mapping[str, Any], fold: int | None) -> str | None:
    """Return why the figures may flatter a bundle that says which fold it was trained without."""
    if "fold" not in trained_on:
        return None
    left_out = trained_on["fold"]
    if left_out is None:
        return "trained on every fold of its data: recordings among these flatter it"
    if left_out == fold:
        return None
    return (
        f"trained on all folds of its data but {left_out}: recordings among these flatter it; "
        f"--fold {left_out} leaves them out"
    )


def measure(bundle: Bundle, heard: Heard, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Return every measure of a bundle; None where the folder does not allow it."""
    return {
        **accuracy(heard),
        **calibration(heard),
        **strangers(heard),
        **events_by_recording(heard, bundle.thresholds),
        **by_species(heard, bundle.labels, bundle.thresholds),
        "recordists": by_recordist(bundle, heard, recordings),
        "errors": errors(bundle, heard, recordings),
    }


def errors(bundle: Bundle, heard: Heard, recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Return the recordings that are named wrongly, the surest mistake first."""
    means, best = heard.means(), best_species(heard)
    wrong = np.flatnonzero((heard.target >= 0) & (best != heard.target))
    over = means[wrong, best[wrong]] - means[wrong, heard.target[wrong]]
    names = [label.scientific_name for label in bundle.labels]
    return [
        {
            "file": recordings[i].file,
            "scientific_name": names[heard.target[i]],
            "said": names[best[i]],
            "score": round(float(means[i, heard.target[i]]), 4),
            "said_score": round(float(means[i, best[i]]), 4),
            "licence": recordings[i].licence,
            "recordist": recordings[i].recordist,
        }
        for i in wrong[np.argsort(-over, kind="stable")]
    ]


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal."""
    return "\n".join([*_head(report), *_measures(report), *_events(report), *_species(report)])


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{report['bundle']} ({report['encoder_id']}) on {report['data']}: "
        f"{report['n_recordings']} recordings, {report['n_windows']} windows"
    )
    if report["caution"]:
        yield f"  {report['caution']}"
    for file, reason in report["skipped"].items():
        yield f"  not heard: {file}: {reason}"


def _measures(report: Mapping[str, Any]) -> Iterator[str]:
    peer = report["peer"]
    if peer:
        yield f"  {'':<24}{'':<26}{peer['name']}"
    for name in (*HEADLINES, *SEPARATIONS):
        beside = _with_interval(peer, name) if peer else ""
        yield f"  {name:<24}{_with_interval(report, name):<26}{beside}"
    if report["ece"] is not None:
        yield f"  {'ece if all were true':<24}{report['ece_floor']:.3f}"
    if peer:
        ours, theirs = peer["bundle_ms_per_window"], peer["ms_per_window"]
        name = "ms a window, one core"
        yield f"  {name:<24}{ours:<26.2f}{theirs:.2f}  (ratio {ours / theirs:.3f})"


def _events(report: Mapping[str, Any]) -> Iterator[str]:
    for name in ("unknown", "background"):
        if report[f"n_{name}"]:
            count = f"{report[f'{name}_with_event']} of {report[f'n_{name}']} recordings"
            yield f"  {name + ' with event':<24}{count}"
    if report["n_event_files"]:
        yield (
            f"  {'event_f1':<24}{_number(report['event_f1'])} "
            f"(precision {_number(report['event_precision'])}, recall "
            f"{_number(report['event_recall'])}; by the second {_number(report['segment_f1'])}; "
            f"{report['n_event_files']} files)"
        )
    for name, row in (report["recordists"] or {}).items():
        title = f"recordists, {name.replace('_', ' ')}"
        yield f"  {title:<28}{_with_interval(row, 'recording_top1')} of {row['n_recordists']}"


def _species(report: Mapping[str, Any]) -> Iterator[str]:
    columns = ("precision", "recall", "event_precision", "event_recall")
    yield f"  {'':<28}{'n':>6}" + "".join(f"{c.replace('event_', 'ev. '):>15}" for c in columns)
    for name, row in report["species"].items():
        if row["n"]:
            yield f"  {name:<28}{row['n']:>6}" + "".join(f"{_number(row[c]):>15}" for c in columns)


def _with_interval(report: Mapping[str, Any], name: str) -> str:
    if report[name] is None:
        return "–"
    low, high = report[f"{name}_interval"]
    return f"{report[name]:.3f} ({low:.3f}–{high:.3f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
