"""The report on a generator: how near its pictures are to photographs, and to their calls.

fid, fid_floor     Fréchet distance of as many pictures as photographs, same species in the
                   same numbers; and of two halves of the photographs
kid                kernel distance to the photographs kept aside, over sampling seeds
precision, recall  share of pictures among the photographs, of photographs among the pictures
agreement          pictures in which a probe sees the species of the call they were made from
agreement_ceiling  what that can be: encoder and probe both right
swapped_…          the same events and seeds with another species' embedding: what the probe
                   sees then is the donor's, if the picture is made from the call
memorised          pictures nearer to a training photograph than 99 in 100 of those kept aside
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import find_bundle, load_bundle
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.painter import Painter
from trainer.data.images import GARDEN, TRAIN, VAL, ImageSet, load_images, read_photographs
from trainer.data.recordings import DataError, content_hash, read_recordings
from trainer.evaluation.distances import (
    SUBSET,
    frechet_distance,
    kernel_distances,
    nearest,
    precision_and_recall,
)
from trainer.evaluation.features import inception_features, lite_features
from trainer.evaluation.machine import installed, processor
from trainer.evaluation.pictures import (
    Calls,
    Paints,
    draw_calls,
    hear_calls,
    paint_calls,
)
from trainer.evaluation.probe import Probe, fit_probe
from trainer.evaluation.report import caution

N_FID = 850
N_KID = 1_000
N_KID_SEEDS = 3
N_SUBSETS = 100
N_AGREEMENT = 390
N_SPREAD = 60
"""Pairs of pictures for the distances between calls and between seeds"""
MEMORISED_PERCENTILE = 1.0
LEAST_PHOTOGRAPHS = 2
"""On either side: of one alone there is no distance"""

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures are painted for what."""

    fid: int = N_FID
    kid: int = N_KID
    kid_seeds: int = N_KID_SEEDS
    agreement: int = N_AGREEMENT

    def reduced(self, share: float) -> Counts:
        """Return a share of each, for a first idea; a full report has a share of 1."""
        if share == 1:
            return self
        fid, kid, agreement = (
            max(SUBSET, round(share * n)) for n in (self.fid, self.kid, self.agreement)
        )
        return Counts(fid, kid, 1, agreement)


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """Photographs of the species painted."""

    images: ImageSet
    species: Ints
    """Index into the painted species, or -1"""

    def rows(self, split: str | None = None) -> Ints:
        """Return the photographs of painted species, of one split or of all."""
        kept = [split in (None, p.split) and p.set == GARDEN for p in self.images.photographs]
        return np.flatnonzero(np.array(kept) & (self.species >= 0))

    def pixels(self, rows: Ints) -> Pixels:
        """Return their pixels."""
        return np.ascontiguousarray(self.images.pixels[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """What was painted and what it is judged by."""

    painter: Paints
    photographs: Photographs
    calls: Calls
    cache: Path
    counts: Counts
    seed: int = 0


def evaluate_generator(
    bundle_name: str,
    data: Path,
    images: Path,
    cache: Path,
    fold: int | None = None,
    counts: Counts = Counts(),
    n_threads: int = 1,
) -> tuple[dict[str, Any], Gallery]:
    """Return the report on a bundle's generator, and what it was made from.

    Args:
        data: folder of recordings; best such that neither encoder nor generator knows.
        images: folder of photographs.
        fold: only this fold's recordings.

    Raises:
        BundleError, DataError: one of them cannot be used.
    """
    bundle = load_bundle(find_bundle(bundle_name))
    painter = Painter(bundle, OnnxDenoiser(bundle, n_threads=n_threads))
    recordings = [r for r in read_recordings(data) if fold is None or r.fold == fold]
    if not recordings:
        raise DataError(f"fold {fold} holds no recording: leave --fold out, or choose another")
    photographs = photographs_of(load_images(read_photographs(images), cache), painter)
    calls = hear_calls(bundle, recordings, painter.card.paints)
    gallery = Gallery(painter, photographs, calls, cache, counts)
    judged = {
        "data": data.name,
        "fold": fold,
        "data_hash": content_hash(recordings),
        "images": images.name,
        "caution": caution(bundle.trained_on, fold) or caution(painter.card.trained_on, fold),
    }
    return report_on(bundle.name, gallery, judged), gallery


def report_on(name: str, gallery: Gallery, judged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole report on what a painter paints.

    Args:
        name: of the bundle or of the training.
        judged: what it is judged by, in words.

    Raises:
        DataError: there is too little to judge by.
    """
    refuse_one_species(gallery)
    painter = gallery.painter
    return {
        **described(name, painter, gallery),
        **judged,
        **likeness(gallery),
        **faithfulness(gallery),
        "device": processor(),
        "versions": installed(["onnxruntime", "torch", "numpy"]),
    }


def described(name: str, painter: Paints, gallery: Gallery) -> dict[str, Any]:
    """Return what paints, and how."""
    return {
        "bundle": name,
        "encoder_id": painter.card.encoder_id,
        "generator_id": painter.card.generator_id,
        "images_hash": gallery.photographs.images.content_hash,
        "paints": list(painter.card.paints),
        "n_calls": len(gallery.calls.species),
        "skipped": dict(gallery.calls.skipped),
        "sampling": {
            "solver": painter.sampling.solver,
            "n_steps": painter.sampling.n_steps,
            "guidance_scale": painter.sampling.guidance_scale,
            "guidance_interval": painter.sampling.guidance_interval,
        },
    }


def photographs_of(images: ImageSet, painter: Paints) -> Photographs:
    """Return photographs with their place among the painted species.

    Raises:
        DataError: none is of a painted species, or too few are.
    """
    place = {name: i for i, name in enumerate(painter.card.paints)}
    species = np.array([place.get(p.scientific_name, -1) for p in images.photographs], np.int64)
    found = Photographs(images, species)
    if not len(found.rows()):
        raise DataError(
            "--images holds no photograph of a species that the bundle paints: "
            f"{', '.join(painter.card.paints)}"
        )
    if min(len(found.rows()) // 2, *map(len, taught_and_asked(found))) < LEAST_PHOTOGRAPHS:
        raise DataError(
            f"--images holds {len(found.rows())} photographs of painted species; a distance needs "
            f"at least {LEAST_PHOTOGRAPHS} of split 'train' and as many of 'val'"
        )
    return found


def refuse_one_species(gallery: Gallery) -> None:
    """Refuse, before hours of painting, what species cannot be told apart by.

    Raises:
        DataError: calls, or photographs to learn from, are of one species.
    """
    taught, _ = taught_and_asked(gallery.photographs)
    for what, species in (
        ("calls", gallery.calls.species),
        ("photographs to learn from", gallery.photographs.species[taught]),
    ):
        if len(np.unique(species)) < 2:
            name = gallery.painter.card.paints[species[0]]
            raise DataError(f"all {what} are of {name}: telling species apart needs two")


def likeness(gallery: Gallery) -> dict[str, Any]:
    """Return how near the pictures are to photographs, and what one of them costs."""
    chance = np.random.default_rng((gallery.seed, 1))
    photographs, counts = gallery.photographs, gallery.counts
    real, floor = halves(photographs, counts.fid, chance)
    seen_real, seen_floor = (_inception(gallery, photographs.pixels(r)) for r in (real, floor))
    began_at, calls_before = time.process_time(), gallery.painter.n_network_calls
    painted = paint_like(gallery, photographs.species[real], seed=1)
    seconds, n_calls = (
        time.process_time() - began_at,
        gallery.painter.n_network_calls - calls_before,
    )
    seen = _inception(gallery, painted)
    precision, recall = precision_and_recall(seen, seen_real)
    return {
        "n_fid": len(real),
        "fid": round(frechet_distance(seen, seen_real), 2),
        "fid_floor": round(frechet_distance(seen_floor, seen_real), 2),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        **kernel_report(gallery, chance),
        **memory_report(gallery, seen),
        "network_calls": round(n_calls / len(painted), 2),
        "ms_per_image": round(1000 * seconds / len(painted), 1),
    }


def kernel_report(gallery: Gallery, chance: np.random.Generator) -> dict[str, Any]:
    """Return KID to the photographs kept aside, over sampling seeds."""
    photographs, counts = gallery.photographs, gallery.counts
    kept = aside(photographs)
    seen_kept = _inception(gallery, photographs.pixels(kept))
    species = np.resize(photographs.species[chance.permutation(kept)], counts.kid)
    distances = [
        kernel_distances(
            _inception(gallery, paint_like(gallery, species, seed=100 + i)),
            seen_kept,
            N_SUBSETS,
            chance,
        )
        for i in range(counts.kid_seeds)
    ]
    train = photographs.rows(TRAIN)
    floor = kernel_distances(
        _inception(gallery, photographs.pixels(train if len(train) else kept)),
        seen_kept,
        N_SUBSETS,
        chance,
    )
    return {
        "n_kid": counts.kid,
        "kid": round(float(np.mean(distances)), 5),
        "kid_by_seed": [round(float(d.mean()), 5) for d in distances],
        "kid_interval": [round(float(q), 5) for q in np.percentile(distances, (2.5, 97.5))],
        "kid_floor": round(float(floor.mean()), 5),
    }


def memory_report(gallery: Gallery, seen: Features) -> dict[str, Any]:
    """Return the share of pictures that lie as near to a training photograph as copies do."""
    photographs = gallery.photographs
    train, kept = photographs.rows(TRAIN), photographs.rows(VAL)
    if not len(train) or not len(kept):
        return {"memorised": None}
    pixels = photographs.pixels(train)
    known = [_inception(gallery, p) for p in (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))]
    near = np.percentile(
        nearest(_inception(gallery, photographs.pixels(kept)), known), MEMORISED_PERCENTILE
    )
    return {"memorised": round(float((nearest(seen, known) < near).mean()), 4)}


def faithfulness(gallery: Gallery) -> dict[str, Any]:
    """Return whether a picture shows who called, and that it does so because of the call."""
    probe = probe_of(gallery)
    chance = np.random.default_rng((gallery.seed, 2))
    calls, painter = gallery.calls, gallery.painter
    drawn = np.resize(chance.permutation(len(calls.species)), gallery.counts.agreement)
    own = calls.species[drawn]
    seeds = [int(s) for s in chance.integers(2**53, size=len(drawn))]
    donors = donors_for(calls, own, chance)
    shown = _probe(gallery, probe, paint_calls(painter, calls, drawn, own, seeds))
    swapped = _probe(gallery, probe, paint_calls(painter, calls, donors, own, seeds))
    ceiling = calls.encoder_accuracy * probe.accuracy
    return {
        "n_agreement": len(drawn),
        "agreement": _share(shown == own),
        "agreement_interval": _interval(shown == own, drawn),
        "agreement_ceiling": round(ceiling, 4),
        "encoder_accuracy": round(calls.encoder_accuracy, 4),
        "probe_accuracy": round(probe.accuracy, 4),
        "swapped_agreement_with_own_label": _share(swapped == own),
        "swapped_agreement_with_donor": _share(swapped == calls.species[donors]),
        "chance": round(1 / len(painter.card.paints), 4),
        **spread(gallery, chance),
    }


def spread(gallery: Gallery, chance: np.random.Generator) -> dict[str, Any]:
    """Return how far pictures of one species lie apart: by the call, and by the seed."""
    calls, painter = gallery.calls, gallery.painter
    several = [s for s in np.unique(calls.species) if (calls.species == s).sum() > 1]
    if not several:
        return {"call_distance": None, "seed_distance": None}
    species = chance.choice(several, N_SPREAD)
    pairs = np.array(
        [chance.choice(np.flatnonzero(calls.species == s), 2, replace=False) for s in species]
    )
    seeds, others = chance.integers(2**53, size=(2, N_SPREAD)).tolist()
    first, by_call, by_seed = (
        lite_features(paint_calls(painter, calls, drawn, species, sown), gallery.cache)
        for drawn, sown in ((pairs[:, 0], seeds), (pairs[:, 1], seeds), (pairs[:, 0], others))
    )
    return {
        "call_distance": round(float(np.linalg.norm(first - by_call, axis=1).mean()), 3),
        "seed_distance": round(float(np.linalg.norm(first - by_seed, axis=1).mean()), 3),
    }


def paint_like(gallery: Gallery, species: Ints, seed: int) -> Pixels:
    """Return a picture for each wanted species, from a random call of it."""
    chance = np.random.default_rng((gallery.seed, seed))
    drawn = draw_calls(gallery.calls, species, chance)
    seeds = [int(s) for s in chance.integers(2**53, size=len(species))]
    return paint_calls(gallery.painter, gallery.calls, drawn, species, seeds)


def donors_for(calls: Calls, own: Ints, chance: np.random.Generator) -> Ints:
    """Return a call of another species for each."""
    return np.array([chance.choice(np.flatnonzero(calls.species != s)) for s in own])


def halves(photographs: Photographs, n: int, chance: np.random.Generator) -> tuple[Ints, Ints]:
    """Return two sets of photographs that share none, each with n or as many as there are."""
    rows = chance.permutation(photographs.rows())
    # By species in turn, so that both sets have the same mix.
    rows = rows[np.argsort(photographs.species[rows], kind="stable")]
    one, other = rows[::2], rows[1::2]
    size = min(n, len(other))
    return tuple(chance.permutation(half)[:size] for half in (one, other))  # type: ignore[return-value]


def aside(photographs: Photographs) -> Ints:
    """Return the photographs that were kept aside; all of them where none are named so."""
    kept = photographs.rows(VAL)
    return kept if len(kept) else photographs.rows()


def probe_of(gallery: Gallery) -> Probe:
    """Return a probe taught by some photographs, and what it is worth on others."""
    photographs = gallery.photographs
    rows = taught_and_asked(photographs)
    taught, asked = (lite_features(photographs.pixels(r), gallery.cache) for r in rows)
    train, kept = (photographs.species[r] for r in rows)
    return fit_probe(taught, train, asked, kept)


def taught_and_asked(photographs: Photographs) -> tuple[Ints, Ints]:
    """Return the photographs to train on and those aside, or halves of a folder without split."""
    train, kept = photographs.rows(TRAIN), photographs.rows(VAL)
    if len(train) and len(kept):
        return train, kept
    everything = photographs.rows()
    return everything[::2], everything[1::2]


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal."""
    lines = [
        f"{report['bundle']} ({report['generator_id']}) on {report['n_calls']} calls of "
        f"{len(report['paints'])} species"
    ]
    for name, beside in (
        ("fid", "fid_floor"),
        ("kid", "kid_floor"),
        ("precision", "recall"),
        ("agreement", "agreement_ceiling"),
        ("swapped_agreement_with_own_label", "chance"),
        ("swapped_agreement_with_donor", "agreement_ceiling"),
        ("call_distance", "seed_distance"),
        ("memorised", None),
        ("network_calls", None),
        ("ms_per_image", None),
    ):
        text = f"  {name:<34}{report[name]}"
        lines.append(text + (f"  ({beside}: {report[beside]})" if beside else ""))
    if report["caution"]:
        lines.append(f"  {report['caution']}")
    return "\n".join(lines)


def _inception(gallery: Gallery, pixels: Pixels) -> Features:
    return inception_features(pixels, gallery.cache)


def _probe(gallery: Gallery, probe: Probe, pixels: Pixels) -> Ints:
    return probe.species_in(lite_features(pixels, gallery.cache))


def _share(right: NDArray[np.bool_]) -> float:
    return round(float(right.mean()), 4)


def _interval(right: NDArray[np.bool_], owner: Ints, n_draws: int = 1_000) -> list[float]:
    """Return the 95 % bootstrap interval of a share, resampling calls, not pictures."""
    chance = np.random.default_rng(0)
    n = np.bincount(owner)
    hits = np.bincount(owner, weights=right)
    picks = chance.integers(len(n), size=(n_draws, len(n)))
    shares = hits[picks].sum(axis=1) / n[picks].sum(axis=1)
    return [round(float(q), 4) for q in np.percentile(shares, (2.5, 97.5))]
