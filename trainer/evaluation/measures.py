"""What probabilities are worth: each measure a plain function of what was heard.

A recording's scores are the means of its windows' probabilities, and the best species counts:
one rule for every model. (Maximum, mean logit, log-mean-exp and the mean of the best few were
compared; none was better by more than chance, see docs/experiments.md.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fieldstation.records import Label
from trainer.encoder.calibration import VISIBLE
from trainer.encoder.scores import auroc, bootstrap_interval, calibration_error, error_of_truth
from trainer.evaluation.hearing import Bools, Floats, Heard, Ints
from trainer.evaluation.truth import BACKGROUND, UNKNOWN

N_RELIABILITY_BINS = 10
TINY = 1e-12
WILSON_Z = 1.96
"""Of a 95 % interval"""

Statistic = Callable[[Floats], float]
"""A measure as a function of how often each recording counts, [recordings]"""


def accuracy(heard: Heard) -> dict[str, Any]:
    """Return top-1 by recording and by window, macro and cmAP, with intervals.

    None of each where no recording is of a species that the model knows.
    """
    known = np.flatnonzero(heard.target >= 0)
    right = is_right(heard)[known]
    n_windows, n_right = heard.n_windows[known], windows_right(heard)[known]
    target = heard.target[known]
    measures: dict[str, Statistic] = {
        "recording_top1": lambda count: ratio(count @ right, count.sum()),
        "window_top1": lambda count: ratio(count @ n_right, count @ n_windows),
        "macro": lambda count: macro_recall(right, target, count),
    }
    report: dict[str, Any] = {}
    for name, statistic in measures.items():
        report |= with_interval(name, statistic, len(known))
    n_units = len(heard.target) if len(known) else 0
    return report | with_interval("cmap", ranked_precision(heard), n_units)


def calibration(heard: Heard) -> dict[str, Any]:
    """Return the calibration error of event peaks, and the reliability behind it.

    A peak is what an event is told with: of every species in every recording of the folder,
    unknown birds and background included, from `VISIBLE` up.
    """
    peaks = heard.peaks()[:, heard.species]
    owner, column = np.nonzero(peaks >= VISIBLE)
    said = peaks[owner, column]
    was = heard.target[owner] == heard.species[column]

    def error(count: Floats) -> float:
        return calibration_error(said, was, count[owner]) if count[owner].any() else float("nan")

    return {
        **with_interval("ece", error, len(heard.target) if len(said) else 0),
        "ece_floor": round(error_of_truth(said), 4) if len(said) else None,
        "reliability": reliability(said, was),
    }


def reliability(said: Floats, was: Bools) -> list[dict[str, Any]]:
    """Return, per bin of probability, what was said and how often it was so."""
    place = np.minimum((said * N_RELIABILITY_BINS).astype(int), N_RELIABILITY_BINS - 1)
    table = []
    for index in np.unique(place):
        inside = place == index
        low, high = wilson(int(was[inside].sum()), int(inside.sum()))
        table.append(
            {
                "from": round(index / N_RELIABILITY_BINS, 4),
                "to": round((index + 1) / N_RELIABILITY_BINS, 4),
                "n": int(inside.sum()),
                "said": round(float(said[inside].mean()), 4),
                "right": round(float(was[inside].mean()), 4),
                "right_interval": [round(low, 4), round(high, 4)],
            }
        )
    return table


def strangers(heard: Heard) -> dict[str, Any]:
    """Return how well unknown birds and background are told from the species.

    Background: by the highest probability of any species. Unknown birds: by the same in log-odds,
    less those of the labels that mean another bird, in the window where that is most; a model
    without such a label has only the first (`unknown_auroc_by_peak` has it for all).
    """
    known = heard.target >= 0
    peak, margin = species_peaks(heard), species_margins(heard)
    report: dict[str, Any] = {}
    for name, kind, score in (
        ("unknown_auroc", UNKNOWN, margin),
        ("unknown_auroc_by_peak", UNKNOWN, peak),
        ("background_auroc", BACKGROUND, peak),
    ):
        chosen = np.flatnonzero(known | (heard.target == kind))
        report |= separation(name, score[chosen], known[chosen])
    return report


def separation(name: str, score: Floats, is_known: Bools) -> dict[str, Any]:
    """Return an AUROC with its interval; None where one side is empty."""

    def statistic(rows: Ints) -> float:
        drawn: Bools = is_known[rows]
        if drawn.all() or not drawn.any():
            return float("nan")
        return auroc(score[rows][drawn], score[rows][~drawn])

    if is_known.all() or not is_known.any():
        return {name: None, f"{name}_interval": None}
    return _rounded(
        name, statistic(np.arange(len(score))), bootstrap_interval(statistic, len(score))
    )


def events_by_recording(heard: Heard, thresholds: Sequence[float]) -> dict[str, Any]:
    """Return in how many recordings of other birds and of background a species makes an event."""
    has_event = np.asarray(makes_event(heard, thresholds).any(axis=1), np.bool_)
    report: dict[str, Any] = {}
    for name, kind in (("unknown", UNKNOWN), ("background", BACKGROUND)):
        rows: Bools = heard.target == kind
        report[f"n_{name}"] = int(rows.sum())
        report[f"{name}_with_event"] = int(has_event[rows].sum())
    return report


def by_species(
    heard: Heard, labels: Sequence[Label], thresholds: Sequence[float]
) -> dict[str, Any]:
    """Return each species' precision and recall, and the confusion by recording.

    `precision` and `recall` are those of the best species of a recording; `event_precision` and
    `event_recall` those of its events at the bundle's thresholds, over all rows of the folder.
    Species that neither occur nor are named are left out.
    """
    best, events = best_species(heard), makes_event(heard, thresholds)
    known = heard.target >= 0
    table: dict[str, dict[str, Any]] = {}
    confusion: dict[str, dict[str, int]] = {}
    for column, label in enumerate(heard.species):
        own, said = heard.target == label, known & (best == label)
        if not (own.any() or said.any() or events[:, column].any()):
            continue
        name = labels[label].scientific_name
        table[name] = {
            "common_name": labels[label].common_name,
            "n": int(own.sum()),
            **share("precision", said & own, said),
            **share("recall", said & own, own),
            **share("event_precision", events[:, column] & own, events[:, column]),
            **share("event_recall", events[:, column] & own, own),
        }
        if own.any():
            found, counts = np.unique(best[own], return_counts=True)
            confusion[name] = {
                labels[f].scientific_name: int(n) for f, n in zip(found, counts, strict=True)
            }
    return {"species": table, "confusion": confusion}


def best_species(heard: Heard) -> Ints:
    """Return the species with the highest mean probability of each recording."""
    best: Ints = heard.species[heard.means()[:, heard.species].argmax(axis=1)]
    return best


def is_right(heard: Heard) -> Bools:
    """Return whether each recording's best species is its own."""
    right: Bools = best_species(heard) == heard.target
    return right


def windows_right(heard: Heard) -> Ints:
    """Return how many windows of each recording name its species."""
    best = heard.species[heard.probabilities[:, heard.species].argmax(axis=1)]
    right = np.bincount(heard.owner, weights=best == heard.window_target)
    return right.astype(np.int64)


def makes_event(heard: Heard, thresholds: Sequence[float]) -> Bools:
    """Return whether each species makes an event in each recording, [recordings, species]."""
    limits = np.asarray(thresholds, np.float64)[heard.species]
    events: Bools = heard.peaks()[:, heard.species] >= limits
    return events


def species_peaks(heard: Heard) -> Floats:
    """Return how sure of any species the model was at most, [recordings]."""
    peaks: Floats = heard.peaks()[:, heard.species].max(axis=1)
    return peaks


def species_margins(heard: Heard) -> Floats:
    """Return by how much a species stood above another bird at most, in log-odds, [recordings]."""
    margin = log_odds(heard.probabilities[:, heard.species].max(axis=1))
    if len(heard.unknown):
        margin = margin - log_odds(heard.probabilities[:, heard.unknown].max(axis=1))
    first = np.flatnonzero(np.diff(heard.owner, prepend=-1))
    margins: Floats = np.maximum.reduceat(margin, first)
    return margins


def log_odds(probability: Any) -> Floats:
    """Return ln(p / (1 - p)), finite."""
    p = np.clip(np.asarray(probability, np.float64), TINY, 1 - TINY)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def macro_recall(right: Bools, target: Ints, count: Floats) -> float:
    """Return the mean over the species drawn of each one's share that is right."""
    n = np.bincount(target, weights=count)
    hits = np.bincount(target, weights=count * right)
    present = n > 0
    return float((hits[present] / n[present]).mean()) if present.any() else float("nan")


def ranked_precision(heard: Heard) -> Statistic:
    """Return cmAP as a statistic: the mean average precision of the species that occur.

    By windows, each with its recording's label; ties count as their group does. The windows are
    ranked once, so that a draw of the bootstrap only counts them anew.
    """
    present = [label for label in heard.species if (heard.target == label).any()]
    rankings = []
    for label in present:
        order = np.argsort(-heard.probabilities[:, label], kind="stable")
        ends = np.append(np.diff(heard.probabilities[order, label]) != 0, True)
        owner = heard.owner[order]
        rankings.append((owner, heard.target[owner] == label, np.flatnonzero(ends)))

    def statistic(count: Floats) -> float:
        values = [_average_precision(count[owner], own, ends) for owner, own, ends in rankings]
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    return statistic


def _average_precision(count: Floats, own: Bools, ends: Ints) -> float:
    """Return the area under precision over recall of ranked rows."""
    hits = np.cumsum(count * own)[ends]
    if not hits[-1]:
        return float("nan")
    precision = hits / np.maximum(np.cumsum(count)[ends], 1)
    return float(np.diff(hits, prepend=0.0) @ precision / hits[-1])


def with_interval(name: str, statistic: Statistic, n_units: int) -> dict[str, Any]:
    """Return a measure over all recordings with its 95 % interval over draws of recordings."""
    if not n_units:
        return {name: None, f"{name}_interval": None}

    def of_draw(rows: Ints) -> float:
        return statistic(np.bincount(rows, minlength=n_units).astype(np.float64))

    return _rounded(name, statistic(np.ones(n_units)), bootstrap_interval(of_draw, n_units))


def ratio(part: Any, whole: Any) -> float:
    """Return a share as a plain number; of nothing, not a number."""
    return float(part / whole) if whole else float("nan")


def share(name: str, part: Bools, whole: Bools) -> dict[str, Any]:
    """Return a share with its 95 % interval; None of nothing."""
    k, n = int(part.sum()), int(whole.sum())
    if not n:
        return {name: None, f"{name}_interval": None}
    return _rounded(name, k / n, wilson(k, n))


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share k of n. Source: Wilson 1927, equation 2."""
    z2 = WILSON_Z**2
    centre = (k + z2 / 2) / (n + z2)
    half = WILSON_Z * np.sqrt(k * (n - k) / n + z2 / 4) / (n + z2)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _rounded(name: str, value: float, interval: tuple[float, float]) -> dict[str, Any]:
    low, high = interval
    return {name: round(value, 4), f"{name}_interval": [round(low, 4), round(high, 4)]}
