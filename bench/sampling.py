"""Ways to sample from a bundle's generator, on the same calls, seeds and photographs.

    python -m bench.sampling --bundle B --data CALLS --images PHOTOGRAPHS [--fold K] \
        dpmpp_2m,16,3 ancestral,21,5 …

Each way is SOLVER,STEPS,GUIDANCE. A quarter of a full report's pictures each; what they are
measured by is `trainer.evaluate generator`'s, but that the probe looks at the pictures of the FID.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldstation.bundle import find_bundle, load_bundle
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.painter import Painter
from fieldstation.generator_card import SOLVERS, check_sampling
from trainer.data.images import load_images, read_photographs
from trainer.data.recordings import read_recordings
from trainer.evaluation.distances import (
    frechet_distance,
    kernel_distances,
    precision_and_recall,
)
from trainer.evaluation.features import inception_features, lite_features
from trainer.evaluation.generator import (
    N_SUBSETS,
    Counts,
    Features,
    Gallery,
    Ints,
    aside,
    halves,
    paint_like,
    photographs_of,
    probe_of,
)
from trainer.evaluation.pictures import hear_calls
from trainer.evaluation.probe import Probe

RESULT = Path(__file__).parent / "results" / "sampling.json"


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """What pictures are compared with."""

    species: Ints
    """Of each picture, and of the photograph in its place"""
    like: Features
    """Of these photographs"""
    kept: Features
    """Of those that nothing was trained on"""
    probe: Probe


def main() -> None:
    """Paint, measure, print and write."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("ways", nargs="+", type=way, metavar="WAY")
    options.add_argument("--bundle", default="garden")
    options.add_argument("--data", type=Path, required=True, metavar="CALLS")
    options.add_argument("--images", type=Path, required=True, metavar="PHOTOGRAPHS")
    options.add_argument("--fold", type=int, help="only its recordings; default: all")
    options.add_argument("--share", type=float, default=0.25, help="of a full report's pictures")
    options.add_argument("--cache", type=Path, default=Path("work"))
    options.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    painter = Painter(bundle, OnnxDenoiser(bundle, n_threads=1))
    heard = [r for r in read_recordings(chosen.data) if chosen.fold in (None, r.fold)]
    gallery = Gallery(
        painter,
        photographs_of(load_images(read_photographs(chosen.images), chosen.cache), painter),
        hear_calls(bundle, heard, painter.card.paints),
        chosen.cache,
        Counts().reduced(chosen.share),
    )
    judges = judges_of(gallery)
    card, result = painter.sampling, []
    for solver, steps, guidance in chosen.ways:
        painter.sampling = replace(card, solver=solver).with_choice(guidance, steps)
        name = f"{solver},{steps},{guidance:g}"
        result.append({"way": name, "generator_id": painter.card.generator_id})
        result[-1] |= judged(gallery, painter, judges)
        print(json.dumps(result[-1]), flush=True)
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def way(text: str) -> tuple[str, int, float]:
    """Return solver, steps and guidance; argparse tells what cannot be meant."""
    try:
        solver, steps, guidance = text.split(",")
        found = solver, int(steps), float(guidance)
        check_sampling(*found[1:])
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: SOLVER,STEPS,GUIDANCE ({error})") from None
    if solver not in SOLVERS:
        raise argparse.ArgumentTypeError(f"solver is {solver!r}; one of {', '.join(SOLVERS)}")
    return found


def judges_of(gallery: Gallery) -> Judges:
    """Return what pictures are compared with: as many photographs, and those kept aside."""
    photographs, cache = gallery.photographs, gallery.cache
    real, _ = halves(photographs, gallery.counts.fid, np.random.default_rng((gallery.seed, 1)))
    like, kept = (
        inception_features(photographs.pixels(rows), cache) for rows in (real, aside(photographs))
    )
    return Judges(photographs.species[real], like, kept, probe_of(gallery))


def judged(gallery: Gallery, painter: Painter, by: Judges) -> Mapping[str, Any]:
    """Return what pictures painted in one way are worth, and what they cost."""
    calls_before, began_at = painter.n_network_calls, time.process_time()
    pictures = paint_like(gallery, by.species, seed=1)
    seconds, n_calls = time.process_time() - began_at, painter.n_network_calls - calls_before
    seen = inception_features(pictures, gallery.cache)
    shown = by.probe.species_in(lite_features(pictures, gallery.cache))
    distances = kernel_distances(seen, by.kept, N_SUBSETS, np.random.default_rng(gallery.seed))
    precision, recall = precision_and_recall(seen, by.like)
    return {
        "n": len(pictures),
        "network_calls": round(n_calls / len(pictures), 1),
        "fid": round(frechet_distance(seen, by.like), 1),
        "kid": round(float(distances.mean()), 4),
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "probe_sees_the_species": round(float((shown == by.species).mean()), 3),
        "cpu_ms_per_image": round(1000 * seconds / len(pictures)),
    }


if __name__ == "__main__":
    main()
