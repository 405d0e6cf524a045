"""Paint who is heard: a recording's call, or an event's of the log, beside its pictures in a PNG.

The pictures are generated from the call by the bundle's diffusion model, and are marked so. None
is a photograph: do not identify by them.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from fieldstation.commands.context import (
    Context,
    add_context_arguments,
    add_runtime_argument,
    load_context,
    with_database,
    with_runtime,
)
from fieldstation.errors import MendableError, PassingError
from fieldstation.words import counted

if TYPE_CHECKING:
    from fieldstation.bundle import Bundle
    from fieldstation.commands.calls import Found
    from fieldstation.generation.painter import Painter

EXAMPLES = """  fieldstation paint blackbird.wav -o blackbird.png
  fieldstation paint blackbird.wav --seeds 1..4 --guidance 9 --steps 40 -o bolder.png
  fieldstation paint 019a6f0e-1c5e-7b40-9d62-1f8f4d6a1a2b -o event.png
"""

N_PICTURES = 8
MOST_SEEDS = 64
MOST_THREADS = 4
"""A person waits; beyond it a picture of 64 pixels gains nothing"""
SEEDS = re.compile(r"(\d{1,16})\.\.(\d{1,16})")


class PaintError(MendableError):
    """An option that cannot be meant, or a file that cannot be written."""


class NotPainted(PassingError):
    """The generator failed, for lack of memory perhaps."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("call", metavar="RECORDING|EVENT_ID", help="an audio file, or an event")
    parser.add_argument(
        "--seeds",
        type=parse_seeds,
        metavar="N..M",
        help="a picture for each, such as 1..8 or 3,5; default: 1..8, of an event its own first",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="W",
        help="1: none; more: clearer and less varied; default: the bundle's",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of the sampler; default: the bundle's"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="model, over the settings'")
    add_runtime_argument(parser)
    parser.add_argument(
        "--database", metavar="URL", help="a log elsewhere; default: this station's"
    )
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Paint."""
    from fieldstation.bundle import find_bundle, load_bundle

    context = with_runtime(with_database(load_context(args), args.database), args.runtime)
    _check_output(args.output)
    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    painter = _open_painter(bundle, context)
    _check_choice(painter, args)
    found = _find(args.call, bundle, context)
    seeds = args.seeds or _own_seeds(found)
    began = time.monotonic()
    sheet = paint_sheet(painter, bundle, found, seeds, args.guidance, args.steps)
    _write(args.output, sheet)
    print(
        f"{found.common_name} ({found.call.scientific_name}) {found.probability:.2f}: "
        f"{counted(len(seeds), 'picture')} in {time.monotonic() - began:.1f} s on "
        f"{painter.denoiser.provider}, {painter.n_network_calls // len(seeds)} network calls "
        f"each: {args.output}"
    )
    return 0


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `1..8` or `3,5`."""
    from fieldstation.generation.noise import SEED_BITS

    seeds: Sequence[int]
    if span := SEEDS.fullmatch(text):
        seeds = range(int(span[1]), int(span[2]) + 1)
    else:
        seeds = [int(word) for word in text.split(",") if re.fullmatch(r"\d{1,16}", word)]
        if len(seeds) != text.count(",") + 1:
            raise argparse.ArgumentTypeError(f"{text!r}; such as 1..8 or 3,5")
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} is {len(seeds)} pictures; 1 to {MOST_SEEDS}")
    if max(seeds) >= 1 << SEED_BITS:
        raise argparse.ArgumentTypeError(f"{text!r}; seeds are 0 to {(1 << SEED_BITS) - 1}")
    return tuple(seeds)


def paint_sheet(
    painter: Painter,
    bundle: Bundle,
    found: Found,
    seeds: Sequence[int],
    guidance_scale: float | None = None,
    n_steps: int | None = None,
) -> bytes:
    """Return a PNG of the call beside a picture for each seed.

    Raises:
        Unpaintable: the bundle does not paint this species, or cannot from what is known.
        NotPainted: the generator failed.
    """
    import numpy as np

    from fieldstation.generation.denoiser import PaintingError
    from fieldstation.generation.pictures import Provenance
    from fieldstation.generation.sheet import make_sheet

    condition = painter.condition_of(found.call)
    conditions = np.repeat(condition[None], len(seeds), axis=0)
    try:
        pictures = painter.paint(conditions, seeds, guidance_scale, n_steps)
    except PaintingError as error:
        raise NotPainted(f"nothing was painted: {error}") from error
    provenance = Provenance(
        bundle=bundle.name,
        generator_id=painter.card.generator_id,
        encoder_id=painter.card.encoder_id,
        seed=seeds[0],
        sampling=painter.sampling.with_choice(guidance_scale, n_steps),
        scientific_name=found.call.scientific_name,
        common_name=found.common_name,
        probability=found.probability,
        event_id=str(found.event_id) if found.event_id else None,
        is_of_call=found.call.embedding is not None,
    )
    return make_sheet(found.sound, pictures, provenance, seeds)


def _open_painter(bundle: Bundle, context: Context) -> Painter:
    from fieldstation.generation.denoiser import check_generator
    from fieldstation.generation.painter import Painter
    from fieldstation.generation.runtimes import open_denoiser

    generation = context.settings.generation
    n_threads = min(MOST_THREADS, os.cpu_count() or 1)
    denoiser = open_denoiser(bundle, generation.runtime, generation.provider, n_threads)
    check_generator(denoiser, bundle)
    return Painter(bundle, denoiser)


def _find(call: str, bundle: Bundle, context: Context) -> Found:
    """Return the call of a recording, or of an event where the text is an id and no file."""
    from fieldstation.analysis.classifier import Classifier
    from fieldstation.commands.calls import Listener, call_in_recording, call_of_event

    model = context.settings.model
    listener = Listener(bundle, Classifier(bundle, model.provider, model.threads), context)
    try:
        event_id = UUID(call)
    except ValueError:
        if not Path(call).exists():
            raise PaintError(f"{call!r} is neither a file nor an event's id: name one") from None
        return call_in_recording(Path(call), listener)
    if Path(call).exists():
        return call_in_recording(Path(call), listener)
    return call_of_event(event_id, listener, context)


def _own_seeds(found: Found) -> tuple[int, ...]:
    """Return an event's own seeds, the first being that of its picture in the log."""
    from fieldstation.generation.noise import seed_of

    if found.event_id is None:
        return tuple(range(1, N_PICTURES + 1))
    return tuple(seed_of(found.event_id, index) for index in range(N_PICTURES))


def _check_output(path: Path) -> None:
    """See that the picture can be written, before a minute is spent on painting it."""
    if path.suffix.lower() != ".png":
        raise PaintError(f"-o is {str(path)!r}; pictures are PNG: name a file that ends in .png")
    if not path.parent.is_dir():
        raise PaintError(f"-o is {str(path)!r}; there is no folder {path.parent}: make it first")


def _check_choice(painter: Painter, args: argparse.Namespace) -> None:
    try:
        painter.sampling.with_choice(args.guidance, args.steps)
    except ValueError as error:
        raise PaintError(f"--guidance or --steps cannot be meant: {error}") from error


def _write(path: Path, content: bytes) -> None:
    """Write the file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PaintError(f"-o is {str(path)!r}: {error.strerror or error}") from error
