"""A trained generator for another encoder: what it knows of calls, told in the other's words.

    python -m trainer.generator.adapting --bundle OLD --encoder NEW --data CALLS -o BUNDLE

Both encoders hear the same windows; a linear map, fitted by ridge regression, turns the new one's
embeddings into the conditions that the generator was trained with. The denoiser stays as it is. An
encoder that was trained on from the old one is nearly its equal; how near any comes is printed,
for recordings that the map was not fitted on. A fold that generator or encoder left out stays out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import (
    DENOISER,
    Bundle,
    BundleError,
    find_bundle,
    load_bundle,
    save_generator,
)
from fieldstation.generation.conditions import (
    CONDITION,
    Conditions,
    card_of,
    load_conditions,
    save_conditions,
)
from fieldstation.generation.golden import save_generator_golden
from fieldstation.generator_card import SOLVERS, check_sampling
from trainer.data.recordings import DataError
from trainer.generator.bundling import Packaging, copied, golden_of
from trainer.generator.embeddings import Calls, load_calls
from trainer.mistakes import MISTAKES, in_words

RIDGE = 0.03
"""Of the number of windows: what is added to each value's variance"""
ASKED = 5
"""Every so many recordings one is left out of a first fit, to say how good it is"""
NOTICE = "NOTICE.generator"
AS_IT_WAS = Packaging()
"""Pictures are sampled as before"""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """Conditions for another encoder, and what they are worth."""

    conditions: Conditions
    explained: float
    """Share of the conditions' variance, in recordings left out of a first fit"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = _parser().parse_args(arguments)
    try:
        bundle, adapted = _adapt(options)
    except MISTAKES as error:
        print(f"trainer.generator.adapting: {in_words(error)}", file=sys.stderr)
        return 2
    print(
        f"{bundle.path}: generator {bundle.generator_id} for encoder {bundle.encoder_id}; "
        f"{adapted.explained:.2f} of what conditions vary by is kept"
    )
    return 0


def adapt(old: Bundle, old_calls: Calls, new_calls: Calls) -> Adapted:
    """Return the conditions of a bundle's generator, from another encoder's embeddings.

    Args:
        old_calls: as the bundle's own encoder hears them.
        new_calls: the same windows, as the other hears them.

    Raises:
        BundleError: the bundle does not paint.
        DataError: they are not the same windows, too few recordings, or nothing alike.
    """
    if not np.array_equal(old_calls.recording, new_calls.recording):
        raise DataError(
            "--encoder cuts other windows than the bundle's own: both must have the same sample "
            "rate and samples per window"
        )
    known = load_conditions(old)
    wanted = known.of_embeddings(old_calls.embedding)
    mean, scale = new_calls.embedding.mean(axis=0), new_calls.embedding.std(axis=0) + 1e-6
    given = (new_calls.embedding - mean) / scale
    asked = new_calls.recording % ASKED == 0
    if asked.all() or not asked.any():
        raise DataError("--data holds too few recordings to judge a map by: at least two")
    tried = _map(given[~asked], wanted[~asked])
    error = wanted[asked] - given[asked] @ tried
    explained = 1 - float(np.square(error).sum() / np.square(wanted[asked]).sum())
    if not explained > 0:
        raise DataError(
            f"the map explains {explained:.2f} of what conditions vary by, less than none at all: "
            "bring more recordings, or train a generator for this encoder"
        )
    mapping = _map(given, wanted)
    return Adapted(replace(known, mean=mean, scale=scale, mapping=mapping), explained)


def known_to(old: Bundle, encoder: Bundle, calls: Calls) -> Calls:
    """Return the calls of no fold that the generator or the encoder left out: they may judge both.

    Raises:
        BundleError: the bundle does not paint.
    """
    for trained_on in (card_of(old).trained_on, encoder.trained_on):
        calls = calls.without_fold(trained_on.get("fold"))
    return calls


def bundle_adapted(
    old: Bundle, encoder: Bundle, adapted: Adapted, folder: Path, how: Packaging = AS_IT_WAS
) -> Bundle:
    """Write a bundle that hears with another encoder and paints with the generator there is.

    Args:
        how: of it, how pictures are sampled; what it leaves open stays as it was.

    Raises:
        BundleError: the bundle does not paint, stands in that folder itself, or says not by whose
            photographs it paints.
    """
    card = card_of(old)
    _refuse_own_place(old, folder)
    notice = _notice_of(old)
    heard = replace(copied(encoder, folder), name=folder.resolve().name)
    shutil.copyfile(old.denoiser_path, folder / DENOISER)
    save_conditions(folder, adapted.conditions)
    origin = {"adapted_from_encoder": card.encoder_id, "adapted_explains": adapted.explained}
    card = replace(
        card,
        solver=how.solver or card.solver,
        n_steps=how.n_steps or card.n_steps,
        guidance_scale=card.guidance_scale if how.guidance_scale is None else how.guidance_scale,
        encoder_id=heard.encoder_id,
        trained_on={**card.trained_on, **origin},
    )
    save_generator_golden(folder, golden_of(replace(heard, generator=card)))
    return save_generator(heard, card, notice)


def _refuse_own_place(old: Bundle, folder: Path) -> None:
    """Refuse the generator's own folder: the other encoder would be written over its own."""
    if folder.resolve() == old.path.resolve():
        raise BundleError(
            f"-o {folder} is the --bundle whose generator is adapted, which would be lost: "
            "name another -o"
        )


def _notice_of(old: Bundle) -> str:
    """Return whose photographs a generator learnt from; it goes with the weights."""
    try:
        return (old.path / NOTICE).read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(
            f"{old.path / NOTICE} cannot be read: {error.strerror}: fetch the bundle again"
        ) from error


def _map(given: Floats, wanted: Floats) -> Floats:
    """Return the matrix [512, 512] that makes of rows the nearest to wanted ones, in squares."""
    squares: Doubles = given.T.astype(np.float64) @ given
    squares += RIDGE * len(given) * np.eye(CONDITION)
    return np.linalg.solve(squares, given.T.astype(np.float64) @ wanted).astype(np.float32)


def _adapt(options: argparse.Namespace) -> tuple[Bundle, Adapted]:
    # before minutes of listening
    check_sampling(1 if options.steps is None else options.steps, options.guidance or 0.0)
    old, encoder = (load_bundle(find_bundle(name)) for name in (options.bundle, options.encoder))
    card_of(old)
    _refuse_own_place(old, options.output)
    background = options.background or options.data.parent / "background"
    beneath = background if background.is_dir() else None
    old_calls, new_calls = (
        known_to(old, encoder, load_calls(bundle, options.data, options.cache, beneath))
        for bundle in (old, encoder)
    )
    adapted = adapt(old, old_calls, new_calls)
    how = Packaging(solver=options.solver, n_steps=options.steps, guidance_scale=options.guidance)
    return bundle_adapted(old, encoder, adapted, options.output, how), adapted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer.generator.adapting", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--bundle", required=True, help="whose generator it is: folder, or a shipped bundle's name")
    add("--encoder", required=True, metavar="BUNDLE", help="whose embeddings are to be painted")
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings")
    add("--background", type=Path, metavar="FOLDER", help="no birds (default: beside --data)")
    add("--cache", type=Path, default=Path("work"), help="decoded data (default: %(default)s)")
    add("--solver", choices=SOLVERS, help="of the bundle (default: the generator's until now)")
    add("--steps", type=int, metavar="N", help="likewise")
    add("--guidance", type=float, metavar="W", help="likewise")
    add("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
