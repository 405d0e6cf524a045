"""How far a label's calibration may lie from the others', by recordings that it was not fitted on.

    python -m bench.offset_spread --bundle RUN/bundle [--bundle …] --data FOLDER [--cache FOLDER]

Of the fold that each bundle's training held out, with the other birds and the background beside it:
the log loss of all peaks in the mix of trainer/encoder/held_out.py, their calibration error, and
how often the likeliest species is right. Each a mean of `N_SPLITS` five-fold splits by recording.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.records import LabelKind
from trainer.data.corpus import Sources, gather
from trainer.data.windows import WindowGrid
from trainer.encoder.calibration import VISIBLE, fit_peaks, is_label, peaks_of
from trainer.encoder.fitting import windows_of
from trainer.encoder.held_out import mix_weight, species_of
from trainer.encoder.judging import mean_by_recording, run_over, top1
from trainer.encoder.running import cpu_session, run_logits
from trainer.encoder.scores import calibration_error
from trainer.evaluation.machine import installed, processor

RESULT = Path(__file__).parent / "results" / "offset_spread.json"
SPREADS = (0.001, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0)
N_FOLDS, N_SPLITS = 5, 20
SEED = 0
BESIDE = ("background", "other_birds", "unlabelled")


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A bundle on what its training held out."""

    logits: NDArray[np.float64]
    """[windows, labels]"""
    owner: NDArray[np.int64]
    """Recording of each window"""
    target: NDArray[np.int64]
    """Of each recording"""
    weight: NDArray[np.float64]
    """Of each recording"""
    species: list[int]
    data_hash: str = ""


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", action="append", required=True)
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    options.add_argument("--cache", type=Path, default=Path("work"), help="decoded audio")
    options.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    chosen = options.parse_args()
    rows = []
    for name in chosen.bundle:
        bundle = load_bundle(find_bundle(name))
        fold = bundle.trained_on.get("fold")
        if fold is None:
            options.error(f"--bundle {name} held no fold out: nothing can judge it")
        heard = hear(bundle, fold, chosen.data, chosen.cache)
        for spread in SPREADS:
            about = {"encoder_id": bundle.encoder_id, "fold": fold, "data_hash": heard.data_hash}
            found = {"spread": spread, **mean_of(splits(heard, spread))}
            rows.append(about | found)
            print(json.dumps(found), flush=True)
    versions = installed(("numpy", "onnxruntime"))
    result = {"device": processor(), "versions": versions, "seed": SEED, "rows": rows}
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def hear(bundle: Bundle, fold: int, data: Path, cache: Path) -> Heard:
    """Run a bundle over everything that its training held out."""
    beside = {name: at for name in BESIDE if (at := data.resolve().parent / name).is_dir()}
    extra = next(label for label in bundle.labels if label.kind is not LabelKind.SPECIES)
    corpus = gather(Sources(data, **beside), bundle.sample_rate, cache, fold, extra=extra)
    if corpus.labels != bundle.labels:
        raise SystemExit(f"{data} has other species than {bundle.path}")
    n_samples = bundle.samples_per_window
    windows = windows_of(corpus, WindowGrid(n_samples, n_samples // 2), np.flatnonzero(corpus.held))
    session = cpu_session(bundle.encoder_path, n_threads=1)
    kept, owner = np.unique(windows.recording, return_inverse=True)
    return Heard(
        run_over(lambda batch: run_logits(session, batch), windows),
        owner,
        corpus.target[kept],
        mix_weight(corpus.role[kept]),
        species_of(bundle.labels),
        corpus.content_hash,
    )


def splits(heard: Heard, spread: float) -> Iterator[Mapping[str, float]]:
    """Yield what each split into folds shows."""
    chance = np.random.default_rng(SEED)
    for _ in range(N_SPLITS):
        yield judged(heard, cross_fitted(heard, chance.permutation(len(heard.target)), spread))


def cross_fitted(heard: Heard, order: NDArray[np.int64], spread: float) -> NDArray[np.float64]:
    """Return probabilities of windows by scales fitted on the other folds' recordings."""
    peaks = peaks_of(heard.logits, heard.owner)
    right = is_label(heard.target, peaks.shape[1])
    said = np.empty_like(heard.logits)
    for fold in range(N_FOLDS):
        others, mine = order % N_FOLDS != fold, (order % N_FOLDS == fold)[heard.owner]
        scale = fit_peaks(peaks[others], right[others], heard.weight[others], spread)
        said[mine] = scale.probabilities(heard.logits[mine], "sigmoid")
    return said


def judged(heard: Heard, said: NDArray[np.float64]) -> Mapping[str, float]:
    """Return log loss a recording, calibration error, and the shares of right names."""
    peaks, target = peaks_of(said, heard.owner), heard.target
    right = is_label(target, peaks.shape[1])
    loss = -np.where(right, np.log(peaks), np.log1p(-peaks)).sum(axis=1)
    visible = peaks >= VISIBLE
    counts = np.broadcast_to(heard.weight[:, None], peaks.shape)
    is_ours = np.isin(target, heard.species)
    by_window = top1(said, target[heard.owner], heard.species)[is_ours[heard.owner]]
    by_recording = top1(mean_by_recording(said, heard.owner), target, heard.species)[is_ours]
    return {
        "log_loss": float(np.average(loss, weights=heard.weight)),
        "peak_ece": calibration_error(peaks[visible], right[visible], counts[visible]),
        "recording_top1": float(by_recording.mean()),
        "window_top1": float(by_window.mean()),
    }


def mean_of(rows: Iterator[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the mean of each measure."""
    table = list(rows)
    return {name: round(float(np.mean([row[name] for row in table])), 4) for name in table[0]}


if __name__ == "__main__":
    main()
