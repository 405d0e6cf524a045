"""Encoder, then generator, then one bundle: `trainer.fit` without a subcommand.

Every step's folder is named by the hash of all that goes into it. A step that is there and whole
is not done again; one that was broken off goes on; other data or settings make another folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldstation.bundle import Bundle, BundleError, load_bundle, save_generator
from trainer.data.images import read_photographs
from trainer.data.recordings import DataError, content_hash, file_hash, read_recordings
from trainer.data.teacher import identity_of
from trainer.encoder.bundling import bundle_encoder
from trainer.encoder.fitting import EncoderOrder, fit_encoder
from trainer.encoder.held_out import calibrate
from trainer.generator.bundling import Packaging, bundle_generator, copied
from trainer.generator.fitting import GeneratorOrder, fit_generator

FORMAT = 1
"""Part of every step's hash: raise it when the same inputs would give something else"""


@dataclass(frozen=True, slots=True)
class WholeOrder:
    """What the command line asks for; both orders' folders are for `fit_whole` to fill in."""

    encoder: EncoderOrder
    generator: GeneratorOrder
    folder: Path
    """Where the steps are kept"""
    output: Path
    precision: float = 0.9
    """Of events, for the thresholds"""


class Unfinished(ValueError):
    """The generator's time was over before its images were seen."""


def fit_whole(order: WholeOrder) -> Bundle:
    """Do what is not done yet; return the bundle that hears and paints.

    Raises:
        Unfinished: the time limit came first; the same command goes on.
        DataError, OrderError, ValueError, BundleError: see the steps.
    """
    encoder = encoder_step(order)
    made = generator_step(order, encoder)
    return delivered(made, order.output)


def encoder_step(order: WholeOrder) -> Bundle:
    """Return the encoder's bundle, trained now or found."""
    wanted = order.encoder
    sources = [s for s in _folders(wanted) if s is not None]
    settings = {
        "recordings": [content_hash(read_recordings(s, wanted.tiers)) for s in sources],
        "profile": wanted.profile,
        "changes": wanted.changes,
        "epochs": wanted.n_epochs,
        "fold": wanted.fold,
        "labels": wanted.labels,
        "seed": wanted.seed,
        "teacher": identity_of(wanted.teacher) if wanted.teacher else "",
        "precision": order.precision,
    }
    folder = order.folder / f"encoder-{digest(settings)}"
    if found := whole_bundle(folder / "bundle"):
        print(f"encoder {found.encoder_id}: its inputs are unchanged, kept")
        return found
    fitted = fit_encoder(replace(wanted, folder=folder, resume=True))
    calibration = calibrate(fitted, order.precision)
    return bundle_encoder(fitted, calibration, folder / "bundle", order.output.resolve().name)


def generator_step(order: WholeOrder, encoder: Bundle) -> Bundle:
    """Return the bundle with a generator for this encoder, trained now or found."""
    wanted = order.generator
    if wanted.data is None or wanted.images is None:
        raise DataError("all of it is learnt from folders: name --data and --images")
    settings = {
        "encoder": encoder.encoder_id,
        "recordings": content_hash(read_recordings(wanted.data, wanted.tiers)),
        "photographs": photographs_hash(wanted.images),
        "profile": wanted.profile,
        "size": wanted.size,
        "changes": wanted.changes,
        "images_seen": wanted.images_seen,
        "pretrain_images": wanted.pretrain_images,
        "half_images": wanted.half_images,
        "fold": wanted.fold,
        "batch_size": wanted.batch_size,
        "learning_rate": wanted.learning_rate,
        "shuffled": wanted.shuffled,
        "seed": wanted.seed,
    }
    folder = order.folder / f"generator-{digest(settings)}"
    found = whole_bundle(folder / "bundle")
    if found and found.generator_id:
        print(f"generator {found.generator_id}: its inputs are unchanged, kept")
        return hearing_as(found, encoder)
    fitted = fit_generator(replace(wanted, folder=folder, encoder=str(encoder.path), resume=True))
    if not fitted.finished:
        raise Unfinished(
            f"{folder}: {fitted.progress.images_seen} of {fitted.training.plan.images_seen} "
            "images seen; go on with the same command"
        )
    return bundle_generator(fitted, folder / "bundle", Packaging(name=encoder.name))


def hearing_as(made: Bundle, encoder: Bundle) -> Bundle:
    """Return a bundle with the thresholds of its encoder's step: they may have been chosen anew."""
    assert made.generator is not None
    if replace(encoder, path=made.path, generator=made.generator) == made:
        return made
    notice = (made.path / "NOTICE.generator").read_text(encoding="utf-8")
    return save_generator(copied(encoder, made.path), made.generator, notice)


def delivered(made: Bundle, output: Path) -> Bundle:
    """Return the bundle at `output`, copied there unless it is there; bundle.json comes last."""
    there = whole_bundle(output)
    if there and replace(made, path=output) == there:
        print(f"{output}: unchanged")
        return there
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(made.path.iterdir(), key=lambda path: path.name == "bundle.json")
    for path in files:
        shutil.copyfile(path, output / path.name)
    return load_bundle(output)


def whole_bundle(folder: Path) -> Bundle | None:
    """Return the bundle in a folder; None where there is none, or not a whole one."""
    try:
        return load_bundle(folder)
    except BundleError:
        return None


def photographs_hash(folder: Path) -> str:
    """Return the sha256 of a folder's photographs, names and splits, whatever their order."""
    photographs = read_photographs(folder)
    lines = [f"{file_hash(p.path)} {p.scientific_name} {p.set} {p.split}" for p in photographs]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def digest(settings: dict[str, Any]) -> str:
    """Return the name of a set of inputs, 12 hexadecimal digits."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _folders(order: EncoderOrder) -> Iterable[Path | None]:
    sources = order.sources
    return (sources.species, sources.background, sources.other_birds, sources.unlabelled)
