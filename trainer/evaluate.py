"""Judge a model: `python -m trainer.evaluate encoder --bundle B --data FOLDER [--json FILE]`.

Any bundle and any folder with `recordings.csv` (columns file, scientific_name at least). A row
whose species is not among the bundle's labels counts as an unknown bird, one without species as
background. The encoder runs on onnxruntime, on the windows that a station would hear: every half
window.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tqdm import tqdm

from fieldstation.bundle import Bundle, BundleError, find_bundle, load_bundle
from fieldstation.records import LabelKind
from trainer.data.audio import AudioSet, load_audio
from trainer.data.recordings import DataError, Recording, content_hash, read_recordings
from trainer.data.windows import WindowGrid, all_windows
from trainer.encoder.calibration import VISIBLE, peaks_of
from trainer.encoder.judging import Floats, activate, mean_by_recording
from trainer.encoder.running import cpu_session, run_logits
from trainer.encoder.scores import (
    Bools,
    Ints,
    auroc,
    bootstrap_interval,
    calibration_error,
    class_mean_average_precision,
    macro_mean,
)

UNKNOWN, BACKGROUND = -1, -2
"""Targets of a recording that is none of the labels"""
BATCH_SIZE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """Probabilities of every window of a folder."""

    probabilities: Floats
    """[windows, labels]"""
    owner: Ints
    """Recording of each window"""
    target: Ints
    """Label of each recording, `UNKNOWN` or `BACKGROUND`"""
    species: Ints
    """Labels that are species"""

    @property
    def window_target(self) -> Ints:
        """Return each window's label: its recording's."""
        return self.target[self.owner]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = parser().parse_args(arguments)
    try:
        report = evaluate_encoder(options.bundle, options.data, options.cache, options.fold)
    except (BundleError, DataError) as error:
        print(f"trainer.evaluate: {error}", file=sys.stderr)
        return 2
    print(as_text(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line of `trainer.evaluate`."""
    top = argparse.ArgumentParser(prog="trainer.evaluate", description="Judge a model.")
    commands = top.add_subparsers(dest="command", required=True, metavar="encoder")
    encoder = commands.add_parser("encoder", help="the sound encoder", description=__doc__)
    add = encoder.add_argument
    add("--bundle", required=True, help="folder, or name of a shipped bundle")
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings to judge by")
    add("--json", type=Path, metavar="FILE", help="write the whole report")
    add("--fold", type=int, metavar="K", help="only this fold's recordings (default: all)")
    add("--cache", type=Path, default=Path("work"), help="decoded audio (default: %(default)s)")
    return top


def evaluate_encoder(
    bundle_name: str, data: Path, cache: Path, fold: int | None = None
) -> dict[str, Any]:
    """Return the report on a bundle over a folder, or one fold of it.

    Raises:
        BundleError, DataError: one of them cannot be used.
    """
    bundle = load_bundle(find_bundle(bundle_name))
    recordings = of_fold(read_recordings(data), fold)
    audio = load_audio(recordings, bundle.sample_rate, cache)
    heard = hear(bundle, audio)
    return {
        "bundle": bundle.name,
        "encoder_id": bundle.encoder_id,
        "data": data.name,
        "fold": fold,
        "data_hash": content_hash(recordings),
        "skipped": dict(audio.skipped),
        "n_recordings": len(audio.recordings),
        "n_windows": len(heard.owner),
        **measure(bundle, heard),
        "device": platform.machine(),
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


def of_fold(recordings: Sequence[Recording], fold: int | None) -> Sequence[Recording]:
    """Return the recordings of a fold; of None, all.

    Raises:
        DataError: the fold has none.
    """
    kept = [r for r in recordings if fold is None or r.fold == fold]
    if not kept:
        raise DataError(f"fold {fold} holds no recording: leave --fold out, or choose another")
    return kept


def hear(bundle: Bundle, audio: AudioSet) -> Heard:
    """Run a bundle over every window of some recordings."""
    grid = WindowGrid(bundle.samples_per_window, bundle.samples_per_window // 2)
    windows = all_windows(audio, grid)
    session = cpu_session(bundle.encoder_path)
    n_batches = -(-len(windows) // BATCH_SIZE)
    batches = tqdm(
        windows.batches(BATCH_SIZE), total=n_batches, desc="listening", unit="batch", disable=None
    )
    logits = np.concatenate([run_logits(session, b, bundle.outputs.logits) for b in batches])
    index = {label.scientific_name: i for i, label in enumerate(bundle.labels)}
    target = [
        index.get(r.scientific_name, UNKNOWN) if r.scientific_name else BACKGROUND
        for r in audio.recordings
    ]
    species = [i for i, label in enumerate(bundle.labels) if label.kind is LabelKind.SPECIES]
    return Heard(
        calibrated(bundle, logits.astype(np.float64)),
        windows.recording,
        np.array(target, np.int64),
        np.array(species, np.int64),
    )


def calibrated(bundle: Bundle, logits: Floats) -> Floats:
    """Return the probabilities that a bundle makes of logits [windows, labels]."""
    scaled = logits / bundle.temperature + np.array(bundle.offsets or 0.0)
    return activate(scaled, bundle.activation)


def measure(bundle: Bundle, heard: Heard) -> dict[str, Any]:
    """Return every measure that the folder allows."""
    report: dict[str, Any] = {}
    known = heard.target >= 0
    if known.any():
        report |= accuracy(heard) | by_species(bundle, heard)
    peaks = peak_by_recording(heard)
    for name, kind in (("unknown", UNKNOWN), ("background", BACKGROUND)):
        other = heard.target == kind
        if known.any() and other.any():
            report[f"{name}_auroc"] = round(auroc(peaks[known], peaks[other]), 4)
        if other.any():
            report[f"n_{name}"] = int(other.sum())
            report[f"{name}_with_event"] = int(has_event(bundle, heard)[other].sum())
    return report


def accuracy(heard: Heard) -> dict[str, Any]:
    """Return top-1 by recording and by window, macro, cmAP and calibration error.

    A recording's scores are the means of its windows' probabilities; the best species counts.
    The calibration error is that of peaks, which is what an event is told with: of every species
    in every recording of the folder, unknown birds and background included, from 0.1 up.
    Intervals resample recordings.
    """
    known = np.flatnonzero(heard.target >= 0)
    target = heard.target[known]
    scores = mean_by_recording(heard.probabilities, heard.owner)[known]
    right = best_species(scores, heard.species) == target
    of_window = best_species(heard.probabilities, heard.species) == heard.window_target
    n_windows = np.bincount(heard.owner)[known]
    n_right = np.bincount(heard.owner, weights=of_window)[known]
    peaks = peaks_of(heard.probabilities, heard.owner)[:, heard.species]
    is_right = heard.target[:, None] == heard.species

    def window_share(rows: Ints) -> float:
        return float(n_right[rows].sum() / n_windows[rows].sum())

    measures: dict[str, Callable[[Ints], float]] = {
        "recording_top1": lambda rows: float(right[rows].mean()),
        "window_top1": window_share,
        "macro": lambda rows: macro_mean(right[rows], target[rows]),
    }
    report: dict[str, Any] = {}
    for name, statistic in measures.items():
        report |= summary(name, statistic, len(known))
    report |= summary("ece", lambda rows: peak_error(peaks[rows], is_right[rows]), len(peaks))
    report["cmap"] = round(
        class_mean_average_precision(heard.probabilities, heard.window_target, heard.species), 4
    )
    return report


def summary(name: str, statistic: Callable[[Ints], float], n_units: int) -> dict[str, Any]:
    """Return a measure over all units, with its interval."""
    low, high = bootstrap_interval(statistic, n_units)
    value = statistic(np.arange(n_units))
    return {name: round(value, 4), f"{name}_interval": [round(low, 4), round(high, 4)]}


def peak_error(peaks: Floats, right: Bools) -> float:
    """Return the calibration error of peaks that could be events; nothing where there is none."""
    visible = peaks >= VISIBLE
    return calibration_error(peaks[visible], right[visible]) if visible.any() else 0.0


def by_species(bundle: Bundle, heard: Heard) -> dict[str, Any]:
    """Return the confusion by recording, and each species' precision and recall.

    `precision` and `recall` are those of the best species of a recording; `event_precision` and
    `event_recall` those of its events at the bundle's thresholds, over all rows of the folder.
    """
    names = [label.scientific_name for label in bundle.labels]
    best = best_species(mean_by_recording(heard.probabilities, heard.owner), heard.species)
    events = events_by_label(bundle, heard)
    confusion: dict[str, dict[str, int]] = {}
    table: dict[str, dict[str, float | int | None]] = {}
    for i in heard.species:
        own = heard.target == i
        said = (best == i) & (heard.target >= 0)
        table[names[i]] = {
            "n": int(own.sum()),
            "precision": share(said & own, said),
            "recall": share(said & own, own),
            "event_precision": share(events[:, i] & own, events[:, i]),
            "event_recall": share(events[:, i] & own, own),
        }
        counts = np.bincount(best[own], minlength=len(names))
        confusion[names[i]] = {names[j]: int(counts[j]) for j in np.flatnonzero(counts)}
    return {"species": table, "confusion": confusion}


def best_species(scores: Floats, species: Ints) -> Ints:
    """Return the species label with the highest score of each row."""
    best: Ints = species[scores[:, species].argmax(axis=1)]
    return best


def peak_by_recording(heard: Heard) -> Floats:
    """Return how sure of any species the encoder was at most, [recordings]."""
    peaks = np.zeros(len(heard.target))
    np.maximum.at(peaks, heard.owner, heard.probabilities[:, heard.species].max(axis=1))
    return peaks


def events_by_label(bundle: Bundle, heard: Heard) -> Bools:
    """Return whether each label makes an event in each recording, [recordings, labels]."""
    events = np.zeros((len(heard.target), len(bundle.labels)), np.bool_)
    above: Bools = heard.probabilities >= np.array(bundle.thresholds)
    np.logical_or.at(events, heard.owner, above)
    return events


def has_event(bundle: Bundle, heard: Heard) -> Bools:
    """Return whether any species makes an event in each recording."""
    return np.asarray(events_by_label(bundle, heard)[:, heard.species].any(axis=1), np.bool_)


def share(part: Bools, whole: Bools) -> float | None:
    """Return the share of the whole, or None of nothing."""
    return round(float(part.sum() / whole.sum()), 4) if whole.any() else None


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal."""
    lines = [
        f"{report['bundle']} ({report['encoder_id']}) on {report['data']}: "
        f"{report['n_recordings']} recordings, {report['n_windows']} windows"
    ]
    for name in ("recording_top1", "window_top1", "macro", "ece"):
        if name in report:
            low, high = report[f"{name}_interval"]
            lines.append(f"  {name:<18}{report[name]:.3f}  (95 %: {low:.3f}–{high:.3f})")
    for name in ("cmap", "unknown_auroc", "background_auroc"):
        if name in report:
            lines.append(f"  {name:<18}{report[name]:.3f}")
    for name in ("unknown", "background"):
        if f"n_{name}" in report:
            count = f"{report[f'{name}_with_event']} of {report[f'n_{name}']}"
            lines.append(f"  {name + ' events':<18}{count} recordings")
    columns = ("n", "precision", "recall", "event_precision", "event_recall")
    if "species" in report:
        lines.append(f"  {'':<26}" + "".join(f"{c.replace('event_', 'ev. '):>14}" for c in columns))
    for name, row in report.get("species", {}).items():
        cells = ["–" if row[c] is None else f"{row[c]:.2f}" for c in columns[1:]]
        lines.append(f"  {name:<26}{row['n']:>14}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
