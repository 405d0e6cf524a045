"""A trained encoder as a bundle: graph, thresholds, golden check, card and notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, BundleError, Golden, load_bundle, save_bundle
from fieldstation.records import Label, LabelKind
from trainer.data.corpus import Corpus, Role
from trainer.data.recordings import Recording
from trainer.data.windows import WindowGrid
from trainer.encoder.calibration import (
    Scale,
    choose_thresholds,
    cross_fitted_error,
    fit_scale,
    peaks_of,
)
from trainer.encoder.fitting import Fitted, judge_network, windows_of
from trainer.encoder.judging import Floats
from trainer.encoder.mel import LogMel
from trainer.encoder.running import cpu_session, run_logits
from trainer.export import export_encoder, parity, store_half

LICENCE = "CC BY-NC-SA 4.0"
"""Recordings of that licence are among the sources; share-alike passes it on"""
HALF_PARITY = 1e-2
"""Largest |Δlogit| that storing the weights as fp16 may cost"""
CARD = (
    *("profile", "fold", "seed", "epochs", "seconds", "n_weights"),
    *("data_hash", "device", "teacher"),
)
"""What the bundle repeats of a training's result"""
MIX = {Role.SPECIES: 0.5, Role.OTHER_BIRD: 0.25, Role.BACKGROUND: 0.25}
"""What a station is taken to hear, in recordings; a calibration is one for its mix"""
TOLERANCE = {"CPUExecutionProvider": 2e-3, "CUDAExecutionProvider": 2e-2}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns logits into events."""

    scale: Scale
    thresholds: tuple[float, ...]
    report: Mapping[str, Any]
    """What it was fitted on and how often each label's threshold is right"""


def calibrate(fitted: Fitted) -> Calibration:
    """Fit scale and thresholds on the held-out fold, other birds and background.

    Without a held-out fold nothing is scaled and only background speaks: give the calibration of
    a held-out run instead.
    """
    corpus, activation = fitted.corpus, fitted.profile.activation
    windows = windows_of(corpus, grid_of(fitted), np.flatnonzero(corpus.held))
    device = next(fitted.network.parameters()).device
    logits = judge_network(fitted.network, windows, corpus.target, device).logits
    kept, owner = np.unique(windows.recording, return_inverse=True)
    target, role = corpus.target[kept], corpus.role[kept]
    has_species = bool((role == Role.SPECIES).any())
    weight = mix_weight(role)
    scale = fit_scale(logits, owner, target, weight, activation) if has_species else Scale()
    probabilities = scale.probabilities(logits, activation)
    peaks = peaks_of(probabilities, owner)
    background = probabilities[(role == Role.BACKGROUND)[owner]]
    species = [i for i, label in enumerate(corpus.labels) if label.kind is LabelKind.SPECIES]
    thresholds = choose_thresholds(peaks, target, weight, background, species)
    report: dict[str, Any] = {
        "fold": fitted.result["fold"],
        "mix": {role.name.lower(): share for role, share in MIX.items()},
        "recordings": {r.name.lower(): int((role == r).sum()) for r in Role},
        "background_s": seconds_of(corpus, corpus.held_of(Role.BACKGROUND)),
        "labels": describe_thresholds(corpus.labels, thresholds, peaks, target),
    }
    if has_species:
        error = cross_fitted_error(logits, owner, target, weight, activation)
        report["peak_ece_cross_fitted"] = round(error, 4)
    return Calibration(scale, tuple(thresholds), report)


def mix_weight(role: NDArray[np.int64]) -> Floats:
    """Return what each held-out recording counts, so that the roles make up `MIX`; mean 1."""
    counts = np.bincount(role, minlength=len(Role))
    present = {kind: share for kind, share in MIX.items() if counts[kind]}
    total = sum(present.values())
    weight = np.zeros(len(role))
    for kind, share in present.items():
        weight[role == kind] = len(role) * share / total / counts[kind]
    return weight


def seconds_of(corpus: Corpus, recordings: NDArray[np.int64]) -> float:
    """Return how long some recordings are together."""
    n_samples = sum(len(corpus.audio.of(int(i))) for i in recordings)
    return round(n_samples / corpus.audio.sample_rate, 1)


def calibration_of(path: Path, labels: Sequence[Label]) -> Calibration:
    """Return a bundle's calibration, for a training that holds no fold out.

    Raises:
        BundleError: the bundle cannot be read, or has other labels.
    """
    bundle = load_bundle(path)
    if bundle.labels != tuple(labels):
        raise BundleError(f"--thresholds-from {path} has other labels than this training")
    report = dict(bundle.metrics.get("calibration", {})) | {"from": bundle.encoder_id}
    return Calibration(Scale(bundle.temperature, bundle.offsets), bundle.thresholds, report)


def describe_thresholds(
    labels: Sequence[Label],
    thresholds: Sequence[float],
    peaks: Floats,
    target: NDArray[np.int64],
) -> dict[str, dict[str, float | int | None]]:
    """Return threshold, precision and recall by recording of each species, where held out."""
    table: dict[str, dict[str, float | int | None]] = {}
    for i, label in enumerate(labels):
        if label.kind is not LabelKind.SPECIES:
            continue
        above, own = peaks[:, i] >= thresholds[i], target == i
        right = int((above & own).sum())
        table[label.scientific_name] = {
            "threshold": thresholds[i],
            "precision": round(right / int(above.sum()), 3) if above.any() else None,
            "recall": round(right / int(own.sum()), 3) if own.any() else None,
            "n": int(own.sum()),
        }
    return table


def bundle_encoder(fitted: Fitted, calibration: Calibration, folder: Path, name: str) -> Bundle:
    """Export a fitted encoder and write its bundle.

    Raises:
        ExportError: the graph does not run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile, corpus = fitted.profile, fitted.corpus
    graph = folder / "encoder.onnx"
    waveforms = golden_waveforms(profile.mel.sample_rate, profile.samples_per_window)
    delta = write_graph(fitted, graph, waveforms)
    golden = Golden(waveforms, run_logits(cpu_session(graph, n_threads=1), waveforms))
    bundle = Bundle(
        path=folder,
        name=name,
        encoder_id="",
        labels=corpus.labels,
        thresholds=calibration.thresholds,
        sample_rate=profile.mel.sample_rate,
        samples_per_window=profile.samples_per_window,
        activation=profile.activation,
        temperature=calibration.scale.temperature,
        offsets=calibration.scale.offsets,
        licence=LICENCE,
        trained_on=card(fitted),
        metrics={
            "held_out": fitted.result["history"][-1:],
            "calibration": calibration.report,
            "export_max_abs_delta_logit": delta,
        },
        tolerance=TOLERANCE,
    )
    return save_bundle(bundle, golden, notice(corpus.audio.recordings, fitted.result["teacher"]))


def write_graph(fitted: Fitted, graph: Path, waveforms: NDArray[np.float32]) -> float:
    """Export with fp16-stored weights where that costs little; return the largest |Δlogit|."""
    fitted.network.cpu()
    export_encoder(fitted.network, fitted.profile.samples_per_window, graph)
    full = graph.read_bytes()
    front_end = next(m for m in fitted.network.modules() if isinstance(m, LogMel))
    store_half(graph, front_end)
    delta = parity(fitted.network, graph, waveforms)
    if delta > HALF_PARITY:
        graph.write_bytes(full)
        delta = parity(fitted.network, graph, waveforms)
    return delta


def golden_waveforms(sample_rate: int, n_samples: int) -> NDArray[np.float32]:
    """Return three windows [3, n_samples] to check a station with: silence, a song, noise.

    Synthetic, so that no one's recording travels with the bundle; whole 16-bit steps, so that
    the file packs well.
    """
    generator = np.random.default_rng(20_261_121)
    at = np.arange(n_samples) / sample_rate
    pitch = 3500 + 1200 * np.sin(2 * np.pi * 3 * at) - 900 * np.floor(at * 2)
    gate = (np.sin(2 * np.pi * 7 * at) > 0.2) * np.minimum(1, at)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    song = 0.3 * gate * (np.sin(phase) + 0.3 * np.sin(2 * phase))
    hiss = generator.standard_normal(n_samples) * 10 ** (-60 / 20)
    noise = generator.standard_normal(n_samples) * 10 ** (-30 / 20)
    stacked = np.stack([np.zeros(n_samples), song + hiss, noise])
    return (np.round(stacked * 32768) / 32768).astype(np.float32)


def grid_of(fitted: Fitted) -> WindowGrid:
    """Return the grid that a station hears by: windows every half window."""
    n_samples = fitted.profile.samples_per_window
    return WindowGrid(n_samples, n_samples // 2)


def card(fitted: Fitted) -> dict[str, Any]:
    """Return what the bundle says about its training."""
    corpus, result = fitted.corpus, fitted.result
    trained = [r for r, held in zip(corpus.audio.recordings, corpus.held, strict=True) if not held]
    by_role = Counter(Role(int(role)).name.lower() for role in corpus.role[~corpus.held])
    return {
        **{key: result[key] for key in CARD},
        "versions": result["versions"],
        "recordings": dict(by_role),
        "licence_tiers": sorted({r.licence_tier for r in trained if r.licence_tier}),
    }


def notice(recordings: Iterable[Recording], teacher: str | None = None) -> str:
    """Return the text of NOTICE: licence, and everyone whose work is in the weights."""
    recordings = list(recordings)
    recordists = sorted({r.recordist for r in recordings if r.recordist}, key=str.casefold)
    licences = Counter(r.licence or "none stated" for r in recordings)
    origins = Counter(r.origin for r in recordings if r.origin)
    numbers = sorted({int(r.xeno_canto_id) for r in recordings if r.xeno_canto_id.isdecimal()})
    return "\n".join(
        [
            f"The weights in this folder are licensed {LICENCE}: non-commercial, share-alike.",
            "https://creativecommons.org/licenses/by-nc-sa/4.0/",
            "They were trained on, or chosen with, other people's recordings, none of which is",
            "in this folder. The station's code has its own licence (Apache-2.0).",
            *(
                ["", f"They learnt from the answers of a teacher too: {teacher}."]
                if teacher
                else []
            ),
            *_section("Licences of the recordings, as their sources state them", licences),
            *_section("Collections they were taken from", origins),
            "",
            f"Recordists ({len(recordists)} named by their sources):",
            "; ".join(recordists),
            "",
            f"xeno-canto recordings ({len(numbers)}; https://xeno-canto.org/NUMBER):",
            " ".join(f"XC{number}" for number in numbers),
        ]
    )


def _section(title: str, counts: Counter[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {n:5d}  {text}" for text, n in counts.most_common())]
