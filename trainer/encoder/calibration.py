"""Probabilities that mean what they say, and the thresholds that make events of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.encoder.judging import Floats, activate

TEMPERATURES = (0.25, 8.0)
"""Where the temperature is looked for"""
PRECISION = 0.9
"""Share of a label's windows above its threshold that are to be that label"""
MARGIN = 0.02
"""How far a threshold stays above the most bird-like background"""
THRESHOLD_RANGE = (0.5, 0.98)
"""Below a half another label may be likelier; above, a saturated softmax counts digits"""
MIN_RIGHT = 5
"""Right windows that a precision must rest on"""


def fit_temperature(
    logits: Floats, target: NDArray[np.int64], activation: str = "softmax"
) -> float:
    """Return the temperature with the least cross-entropy on held-out windows.

    Args:
        target: label of each window; -1 where it is none, which only a sigmoid allows.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks.
    """

    def cross_entropy(log_temperature: float) -> float:
        probabilities = activate(logits / math.exp(log_temperature), activation)
        if activation == "softmax":
            chosen = probabilities[np.arange(len(target)), target]
        else:
            chosen = np.where(is_label, probabilities, 1 - probabilities)
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    is_label = target[:, None] == np.arange(logits.shape[1])
    low, high = (math.log(t) for t in TEMPERATURES)
    return math.exp(golden_section(cross_entropy, low, high))


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


def precision_threshold(
    probability: Floats, is_right: NDArray[np.bool_], precision: float = PRECISION
) -> float | None:
    """Return the lowest threshold at which a label's windows are right that often.

    Args:
        probability: of the label, [windows].
        is_right: whether the window's recording is of the label, [windows].

    Returns:
        the threshold, or None where no threshold with `MIN_RIGHT` right windows reaches it.
    """
    order = np.argsort(-probability)
    n_right = np.cumsum(is_right[order])
    reached = n_right / np.arange(1, len(order) + 1) >= precision
    usable = np.flatnonzero(reached & (n_right >= MIN_RIGHT))
    return float(probability[order[usable[-1]]]) if len(usable) else None


def choose_thresholds(
    probabilities: Floats,
    target: NDArray[np.int64],
    background: Floats,
    species: Sequence[int],
) -> list[float]:
    """Return a threshold per label: precise on held-out windows, silent on background.

    Args:
        probabilities: of held-out windows of species, other birds and background,
            [windows, labels].
        target: their labels, [windows].
        background: probabilities of held-out background windows, [windows, labels].
        species: labels that can become events; the others get 1.
    """
    thresholds = [1.0] * probabilities.shape[1]
    low, high = THRESHOLD_RANGE
    for label in species:
        precise = precision_threshold(probabilities[:, label], target == label)
        loudest = float(background[:, label].max(initial=0.0))
        wanted = min(high, high if precise is None else precise)
        # Silence on background goes before the range: it may lift a threshold above it.
        thresholds[label] = round(min(1.0, max(low, wanted, loudest + MARGIN)), 4)
    return thresholds
