"""A training judged where it was trained, by its own weights: without bundle or audio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from trainer.data.recordings import DataError
from trainer.encoder.fitting import describe_device
from trainer.evaluation.generator import (
    Counts,
    Gallery,
    described,
    kernel_report,
    photographs_of,
    report_on,
)
from trainer.evaluation.pictures import Calls
from trainer.evaluation.report import caution
from trainer.generator.bundling import Packaging
from trainer.generator.fitting import FittedGenerator
from trainer.generator.packing import Packed, load_packed
from trainer.generator.painting import Run, RunPainter, reopened


def evaluate_run(
    run: Run, how: Packaging, fold: int | None, counts: Counts, *, only_kid: bool = False
) -> tuple[dict[str, Any], Gallery]:
    """Return the report on a training's weights, and what it was made from.

    Args:
        how: which weights, and how they are sampled; None: as the profile says.
        fold: of the recordings to judge by; None: all.
        only_kid: leave out all but the kernel distance, for thousands of calls a picture.

    Raises:
        DataError, ValueError: the folder cannot be reopened with what was packed.
    """
    fitted, packed = reopened(run), load_packed(run.packed, run.cache)
    painter = RunPainter(fitted, how)
    photographs = photographs_of(packed.images, painter)
    calls = calls_to_paint(packed, painter.card.paints, fold, fitted.order.condition)
    gallery = Gallery(painter, photographs, calls, run.cache, counts)
    name = run.folder.resolve().name
    flatters = caution({"fold": fitted.order.fold}, fold)
    judged = {"fold": fold, "caution": flatters, **trained(fitted, how)}
    if not only_kid:
        return {**report_on(name, gallery, judged), **where_it_ran(fitted)}, gallery
    chance = np.random.default_rng((gallery.seed, 1))
    kid = kernel_report(gallery, chance)
    per_picture = painter.n_network_calls / (counts.kid * counts.kid_seeds)
    about = {**described(name, painter, gallery), **judged}
    about |= {"network_calls": round(per_picture, 2), **where_it_ran(fitted)}
    return {**about, **kid}, gallery


def calls_to_paint(
    packed: Packed, paints: tuple[str, ...], fold: int | None, condition: str
) -> Calls:
    """Return what was heard in a fold's recordings of painted species, as a training was told.

    Raises:
        DataError: nothing.
    """
    heard = packed.heard
    names = [packed.painted[i] for i in heard.species]
    folds = [packed.calls.recordings[i].fold for i in heard.recording]
    wanted = np.array(
        [name in paints and fold in (None, of) for name, of in zip(names, folds, strict=True)]
    )
    rows = np.flatnonzero(wanted)
    if not len(rows):
        where = "was packed" if fold is None else f"is of fold {fold}"
        raise DataError(f"no call of a painted species {where} ({', '.join(paints)})")
    return replace(
        heard,
        species=np.array([paints.index(names[i]) for i in rows], np.int64),
        embedding=(heard.mel if condition == "mel" else heard.embedding)[rows],
        is_right=heard.is_right[rows],
        recording=heard.recording[rows],
        mel=heard.mel[rows],
        by_label=condition == "label",
    )


def where_it_ran(fitted: FittedGenerator) -> dict[str, Any]:
    """Return what stands for a bundle's time on a CPU: here pictures are painted by hundreds."""
    precision = str(fitted.training.precision).removeprefix("torch.")
    device = describe_device(fitted.training.device)
    return {"device": device, "precision_of_painting": precision, "ms_per_image": None}


def trained(fitted: FittedGenerator, how: Packaging) -> dict[str, Any]:
    """Return what a row of a table says about a training."""
    names = ("profile", "size", "condition", "changes", "shuffled", "seed")
    numbers = ("images_seen", "pretrain_images", "batch_size", "learning_rate", "seconds")
    kept = {name: fitted.result[name] for name in (*names, *numbers)}
    return {**kept, "weights": how.weights, "history": fitted.progress.history[-1:]}
