"""What an encoder makes of recordings, and what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.audio import Samples
from trainer.data.windows import WindowSet

Floats = NDArray[np.float64]
Run = Callable[[Samples], NDArray[np.float32]]
"""Waveforms float32 [batch, samples] -> logits float32 [batch, labels]"""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Logits of every window of some recordings."""

    logits: Floats
    """[windows, labels]"""
    recording: NDArray[np.int64]
    """Index of each window's recording, [windows]"""
    target: NDArray[np.int64]
    """Label index of each recording; -1 where it is none of the labels, [recordings]"""


def run_over(run: Run, windows: WindowSet, batch_size: int = 32) -> Floats:
    """Return logits [windows, labels] of every window."""
    return np.concatenate([run(batch) for batch in windows.batches(batch_size)]).astype(np.float64)


def softmax(logits: Floats) -> Floats:
    """Return probabilities along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities, one by one."""
    probabilities: Floats = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def activate(logits: Floats, activation: str) -> Floats:
    """Return probabilities by a bundle's activation, `softmax` or `sigmoid`."""
    return softmax(logits) if activation == "softmax" else sigmoid(logits)


def mean_by_recording(values: Floats, recording: NDArray[np.int64]) -> Floats:
    """Return the mean of each recording's windows, [recordings, …]; every index must occur."""
    counts = np.bincount(recording)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, recording, values)
    means: Floats = sums / counts.reshape(-1, *([1] * (values.ndim - 1)))
    return means


def top1(scores: Floats, target: NDArray[np.int64], among: Sequence[int]) -> NDArray[np.bool_]:
    """Return, per row, whether the best score among some labels is the target's."""
    best = np.asarray(among)[scores[:, among].argmax(axis=1)]
    right: NDArray[np.bool_] = best == target
    return right
