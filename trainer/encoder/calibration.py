"""Probabilities that mean what they say, and the thresholds that make events of them.

An event is told with the highest probability of its windows, so what is calibrated is the peak:
of each label in each held-out recording, over a mix of our species, other birds and background.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.encoder.judging import Floats, activate, sigmoid
from trainer.encoder.scores import calibration_error, error_of_truth

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

TEMPERATURES = (0.25, 8.0)
"""Where the temperature is looked for"""
OFFSET_SPREAD = 0.1
"""Prior spread of a label's offset around the common one, by bench/offset_spread.py: four
recordings a label prove little"""
PRECISION = 0.9
"""Share of events that are to be right"""
MARGIN = 0.05
"""How far a threshold stays above the most bird-like background"""
THRESHOLD_RANGE = (0.1, 0.98)
"""Where a threshold may lie for precision's sake; background may lift it further"""
MIN_RIGHT = 10
"""Right events that a precision must rest on"""
VISIBLE = 0.1
"""Peaks below are no one's event and would flatter the calibration error"""


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What is done to logits before the activation."""

    temperature: float = 1.0
    offsets: tuple[float, ...] = ()
    """Added after the temperature; empty means none"""

    def probabilities(self, logits: Floats, activation: str) -> Floats:
        """Return calibrated probabilities [windows, labels]."""
        return activate(logits / self.temperature + np.array(self.offsets or 0.0), activation)


def peaks_of(values: Floats, recording: Ints) -> Floats:
    """Return the highest value of each label in each recording, [recordings, labels].

    Args:
        values: [windows, labels].
        recording: of each window, 0, 1, …; every one occurs.
    """
    peaks = np.full((int(recording.max(initial=-1)) + 1, values.shape[1]), -np.inf)
    np.maximum.at(peaks, recording, values)
    return peaks


def is_label(target: Ints, n_labels: int) -> Bools:
    """Return whether each label is each row's, [rows, labels]; target -1 is none."""
    found: Bools = target[:, None] == np.arange(n_labels)
    return found


def fit_scale(
    logits: Floats, recording: Ints, target: Ints, weight: Floats, activation: str
) -> Scale:
    """Return the scale under which held-out recordings are likeliest.

    Args:
        logits: of windows, [windows, labels].
        recording: of each window.
        target: label of each recording; -1 where it is none, which only a sigmoid allows.
        weight: how much each recording counts.
    """
    if activation == "softmax":
        return Scale(fit_temperature(logits, target[recording], weight[recording]))
    return fit_peaks(peaks_of(logits, recording), is_label(target, logits.shape[1]), weight)


def fit_temperature(logits: Floats, target: Ints, weight: Floats) -> float:
    """Return the temperature of a softmax with the least cross-entropy on held-out windows.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """

    def cross_entropy(log_temperature: float) -> float:
        probabilities = activate(logits / math.exp(log_temperature), "softmax")
        chosen = probabilities[np.arange(len(target)), target]
        return float(-np.average(np.log(np.maximum(chosen, 1e-12)), weights=weight))

    low, high = (math.log(t) for t in TEMPERATURES)
    return math.exp(golden_section(cross_entropy, low, high))


def fit_peaks(
    peaks: Floats,
    right: Bools,
    weight: Floats,
    spread: float = OFFSET_SPREAD,
    n_steps: int = 30,
) -> Scale:
    """Return temperature and shrunk offsets of sigmoids, by logistic regression on peak logits.

    A common slope and offset, and a deviation of each label with a normal prior; Newton's method
    (iteratively reweighted least squares).

    Args:
        peaks: logits [recordings, labels].
        right: whether the label is the recording's, [recordings, labels].
        weight: how much each recording counts; 1 on average.
        spread: of the prior, in logits.
    """
    counts = np.repeat(weight, peaks.shape[1])
    n_rows, n_labels = peaks.shape
    features = np.concatenate(
        [peaks.reshape(-1, 1), np.ones((peaks.size, 1)), np.tile(np.eye(n_labels), (n_rows, 1))],
        axis=1,
    )
    wanted = right.reshape(-1).astype(np.float64)
    prior = np.diag([1e-6, 1e-6, *[spread**-2] * n_labels])
    # From zero, where the curvature is greatest: from a slope of one, Newton's steps may run away.
    weights = np.zeros(2 + n_labels)
    for _ in range(n_steps):
        said = sigmoid(features @ weights)
        gradient = features.T @ (counts * (said - wanted)) + prior @ weights
        bend = counts * said * (1 - said) + 1e-9
        curvature = (features * bend[:, None]).T @ features + prior
        weights -= np.linalg.solve(curvature, gradient)
    temperature = float(np.clip(1 / max(weights[0], 1e-3), *TEMPERATURES))
    return Scale(temperature, tuple(float(o) for o in weights[1] + weights[2:]))


def golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function of one minimum is least, to 1e-3."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class CrossFittedError:
    """How far probabilities are from what came, where the scale was not fitted."""

    error: float
    floor: float
    """What the same probabilities would show if all of them were true"""


def cross_fitted_error(
    logits: Floats, recording: Ints, target: Ints, weight: Floats, activation: str
) -> CrossFittedError | None:
    """Return the calibration error of peaks that the scale was not fitted on.

    Each half of the recordings is judged by the scale of the other. None where no peak is visible.
    """
    said, was, counts = [], [], []
    n_labels = logits.shape[1]
    for half in (0, 1):
        fitted, judged = recording % 2 != half, recording % 2 == half
        others = slice(1 - half, None, 2)
        scale = fit_scale(
            logits[fitted], recording[fitted] // 2, target[others], weight[others], activation
        )
        probabilities = scale.probabilities(logits[judged], activation)
        said.append(peaks_of(probabilities, recording[judged] // 2).ravel())
        was.append(is_label(target[half::2], n_labels).ravel())
        counts.append(np.repeat(weight[half::2], n_labels))
    probability: Floats = np.concatenate(said)
    visible = probability >= VISIBLE
    if not visible.any():
        return None
    seen, count = probability[visible], np.concatenate(counts)[visible]
    return CrossFittedError(
        calibration_error(seen, np.concatenate(was)[visible], count), error_of_truth(seen, count)
    )


def precision_threshold(
    probability: Floats, right: Bools, weight: Floats, precision: float = PRECISION
) -> float | None:
    """Return the lowest threshold at which that share of what lies above is right.

    Args:
        probability: of events, [events].
        right: whether each is what it says, [events].
        weight: how much each counts, [events].

    Returns:
        the threshold, or None where none with `MIN_RIGHT` right events reaches it.
    """
    order = np.argsort(-probability)
    total: Floats = np.cumsum(weight[order])
    of_right: Floats = np.cumsum((weight * right)[order])
    is_enough = np.cumsum(right[order]) >= MIN_RIGHT
    usable = np.flatnonzero((of_right >= (precision - 1e-9) * total) & is_enough)
    return float(probability[order[usable[-1]]]) if len(usable) else None


def choose_thresholds(
    peaks: Floats,
    target: Ints,
    weight: Floats,
    background: Floats,
    species: Sequence[int],
    precision: float = PRECISION,
) -> list[float]:
    """Return a threshold per label: precise on held-out recordings, silent on background.

    The precision is that of all species together: a fold has four recordings of each, and a
    threshold from four is chance. Background is each label's own.

    Args:
        peaks: calibrated probabilities of held-out recordings of species, other birds and
            background, [recordings, labels].
        target: their labels; -1 where there is none.
        weight: how much each recording counts.
        background: calibrated probabilities of held-out background windows, [windows, labels].
        species: labels that can become events; the others get 1.
        precision: share of events that are to be right.
    """
    low, high = THRESHOLD_RANGE
    right = is_label(target, peaks.shape[1])[:, species]
    counts = np.repeat(weight, len(species))
    precise = precision_threshold(peaks[:, species].ravel(), right.ravel(), counts, precision)
    common = max(low, min(high, high if precise is None else precise))
    thresholds = [1.0] * peaks.shape[1]
    for label in species:
        thresholds[label] = round(max(common, above_background(background[:, label])), 4)
    return thresholds


def above_background(probability: Floats) -> float:
    """Return a threshold that no window of background reaches; below 1, whatever it reached."""
    loudest = float(probability.max(initial=0.0))
    return round(loudest + min(MARGIN, (1 - loudest) / 2), 4)
