"""A trained encoder on what it never heard: its scale, its thresholds, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import BundleError, load_bundle
from fieldstation.records import Label, LabelKind
from trainer.data.corpus import Corpus, Role
from trainer.data.windows import WindowGrid, WindowSet
from trainer.encoder.calibration import (
    PRECISION,
    Scale,
    above_background,
    choose_thresholds,
    cross_fitted_error,
    fit_scale,
    peaks_of,
)
from trainer.encoder.fitting import Fitted, judge_network, windows_of
from trainer.encoder.judging import Floats

BACKGROUND_WINDOWS = 8
"""So many windows of background begin within the length of one"""
TAIL_S = 0.5
"""What a window near a recording's end holds of it at least"""
MIX = {Role.SPECIES: 0.5, Role.OTHER_BIRD: 0.25, Role.BACKGROUND: 0.25}
"""What a station is taken to hear, in recordings; a calibration is one for its mix"""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into events."""

    scale: Scale
    thresholds: tuple[float, ...]
    report: Mapping[str, Any]
    """What it was fitted on and how often each label's threshold is right"""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What a network makes of the windows of held-out recordings."""

    logits: Floats
    """[windows, labels]"""
    owner: NDArray[np.int64]
    """Recording of each window"""
    target: NDArray[np.int64]
    """Of each recording"""
    role: NDArray[np.int64]
    """Of each recording"""
    background: Floats
    """Logits of held-out background, heard from more places than a station hears it,
    [windows, labels]"""


def hear_held_out(fitted: Fitted) -> HeldOut:
    """Run a network over everything that it was not trained on."""
    corpus = fitted.corpus
    windows = windows_of(corpus, grid_of(fitted), np.flatnonzero(corpus.held))
    device = next(fitted.network.parameters()).device
    quiet = windows_everywhere(corpus, grid_of(fitted), corpus.held_of(Role.BACKGROUND))

    def logits_of(some: WindowSet) -> Floats:
        if not len(some):
            return np.empty((0, len(corpus.labels)))
        return judge_network(fitted.network, some, corpus.target, device).logits

    kept, owner = np.unique(windows.recording, return_inverse=True)
    return HeldOut(
        logits_of(windows), owner, corpus.target[kept], corpus.role[kept], logits_of(quiet)
    )


def windows_everywhere(
    corpus: Corpus, grid: WindowGrid, recordings: NDArray[np.int64]
) -> WindowSet:
    """Return windows from many places of some recordings, their ends included, padded with zeros.

    A station's windows begin wherever it was started; what is shorter than one is padded.
    """
    hop, tail = grid.n_samples // BACKGROUND_WINDOWS, round(TAIL_S * corpus.audio.sample_rate)
    starts = [np.arange(0, max(1, len(corpus.audio.of(int(i))) - tail), hop) for i in recordings]
    owner = np.repeat(recordings, [len(s) for s in starts])
    return WindowSet(corpus.audio, grid, owner, np.concatenate([np.empty(0, np.int64), *starts]))


def calibrate(fitted: Fitted, precision: float = PRECISION) -> Calibration:
    """Fit scale and thresholds on the held-out fold, other birds and background.

    Without a held-out fold nothing is scaled and only background speaks: use `calibrated_like`.
    """
    held, activation = hear_held_out(fitted), fitted.profile.activation
    weight = mix_weight(held.role)
    has_species = bool((held.role == Role.SPECIES).any())
    measured = (held.logits, held.owner, held.target, weight, activation)
    scale = fit_scale(*measured) if has_species else Scale()
    probabilities = scale.probabilities(held.logits, activation)
    peaks = peaks_of(probabilities, held.owner)
    labels = fitted.corpus.labels
    thresholds = choose_thresholds(
        *(peaks, held.target, weight, scale.probabilities(held.background, activation)),
        species_of(labels),
        precision=precision,
    )
    report: dict[str, Any] = {
        "fold": fitted.result["fold"],
        "precision": precision,
        "mix": {role.name.lower(): share for role, share in MIX.items()},
        "recordings": {r.name.lower(): int((held.role == r).sum()) for r in Role},
        "background_s": background_s(fitted.corpus),
        "labels": describe_thresholds(labels, thresholds, peaks, held.target, weight),
    }
    if has_species:
        found = cross_fitted_error(*measured)
        report["peak_ece_cross_fitted"] = found and round(found.error, 4)
        report["peak_ece_floor"] = found and round(found.floor, 4)
    return Calibration(scale, tuple(thresholds), report)


def calibrated_like(path: Path, fitted: Fitted) -> Calibration:
    """Return a held-out run's calibration for a training that holds no fold out.

    Scale and thresholds are that run's; where this network's background reaches a threshold, it
    is lifted.

    Raises:
        BundleError: the bundle cannot be read, or has other labels.
    """
    bundle = load_bundle(path)
    if bundle.labels != fitted.corpus.labels:
        raise BundleError(f"--thresholds-from {path} has other labels than this training")
    scale, held = Scale(bundle.temperature, bundle.offsets), hear_held_out(fitted)
    background = scale.probabilities(held.background, fitted.profile.activation)
    thresholds = list(bundle.thresholds)
    for label in species_of(bundle.labels):
        thresholds[label] = max(thresholds[label], above_background(background[:, label]))
    report = dict(bundle.metrics.get("calibration", {})) | {"from_encoder": bundle.encoder_id}
    return Calibration(scale, tuple(thresholds), report)


def species_of(labels: Sequence[Label]) -> list[int]:
    """Return which labels can become events."""
    return [i for i, label in enumerate(labels) if label.kind is LabelKind.SPECIES]


def background_s(corpus: Corpus) -> float:
    """Return the seconds of held-out background."""
    n_samples = sum(len(corpus.audio.of(int(i))) for i in corpus.held_of(Role.BACKGROUND))
    return round(n_samples / corpus.audio.sample_rate, 1)


def mix_weight(role: NDArray[np.int64]) -> Floats:
    """Return what each held-out recording counts, so that the roles make up `MIX`; mean 1."""
    counts = np.bincount(role, minlength=len(Role))
    present = {kind: share for kind, share in MIX.items() if counts[kind]}
    total = sum(present.values())
    weight = np.zeros(len(role))
    for kind, share in present.items():
        weight[role == kind] = len(role) * share / total / counts[kind]
    return weight


def describe_thresholds(
    labels: Sequence[Label],
    thresholds: Sequence[float],
    peaks: Floats,
    target: NDArray[np.int64],
    weight: Floats,
) -> dict[str, dict[str, float | int | None]]:
    """Return threshold, precision and recall by recording of each species, where held out.

    Both in the mix that the thresholds were chosen for: there are more recordings of other birds
    than a station hears of them.
    """
    table: dict[str, dict[str, float | int | None]] = {}
    for i, label in enumerate(labels):
        if label.kind is not LabelKind.SPECIES:
            continue
        above, own = peaks[:, i] >= thresholds[i], target == i
        right = weight[above & own].sum()
        table[label.scientific_name] = {
            "threshold": thresholds[i],
            "precision": _share(right, weight[above].sum()),
            "recall": _share(right, weight[own].sum()),
            "n": int(own.sum()),
        }
    return table


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 3) if whole else None


def grid_of(fitted: Fitted) -> WindowGrid:
    """Return the grid that a station hears by: windows every half window."""
    n_samples = fitted.profile.samples_per_window
    return WindowGrid(n_samples, n_samples // 2)
