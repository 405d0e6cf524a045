"""From photographs and an encoder's bundle to a trained generator: `trainer.fit generator`."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fieldstation.bundle import Bundle, find_bundle, load_bundle
from trainer.checkpoints import alone_in
from trainer.data.images import GARDEN, TRAIN, ImageSet, load_images, read_photographs
from trainer.encoder.fitting import OrderError, choose_device, describe_device
from trainer.encoder.profiles import changed
from trainer.generator.batches import shelf_on
from trainer.generator.course import Lessons, lessons_for, pixels_of, shuffled
from trainer.generator.diffusion import Denoiser
from trainer.generator.embeddings import Calls, load_calls
from trainer.generator.networks import UNet, count_weights
from trainer.generator.packing import load_packed
from trainer.generator.profiles import (
    CONDITIONS,
    Profile,
    config_named,
    diffusion_of,
    profile_named,
)
from trainer.generator.sheets import Look
from trainer.generator.training import (
    JUDGE_EVERY,
    Generator,
    Plan,
    Progress,
    Training,
    branch_off,
    compile_network,
    load_checkpoint,
    train,
)

PRECISIONS = ("auto", "fp32", "bf16")
PLAN, RESULT = "plan.json", "result.json"
OF_THE_LEG = ("precision", "finished_at", "device", "versions")
"""What a result tells of where it was last trained"""
BEGUN_WITH = ("pretrain_images", "half_images", "learning_rate")
"""What a training goes on with as it was begun, unless it is told otherwise; kept in `PLAN`"""


@dataclass(frozen=True, slots=True)
class GeneratorOrder:
    """What the command line asks for."""

    data: Path | None
    """Recordings of the species"""
    images: Path | None
    encoder: str
    """Bundle, by path or name"""
    folder: Path
    """Checkpoints, metrics, sheets and result"""
    cache: Path
    """Decoded audio, embeddings and cropped pixels"""
    packed: Path | None = None
    """Folder that holds data and images, instead of them; an encoder is needed for a bundle only"""
    background: Path | None = None
    """Mixed beneath some variants of the calls"""
    profile: str = "field"
    size: str = "nano"
    condition: str = "embedding"
    changes: tuple[str, ...] = ()
    """Of the profile's values, for an ablation: `noise.std=1.6`"""
    images_seen: int | None = None
    """None: as the profile says"""
    pretrain_images: int | None = None
    """None: the profile's share, or what the checkpoint was begun with"""
    half_images: int | None = None
    """Likewise: of all, the first ones, seen at half their side"""
    fold: int | None = 0
    tiers: tuple[str, ...] | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    """Likewise"""
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    n_threads: int | None = None
    resume: bool = False
    begin_from: Path | None = None
    """Folder of another training to branch off: one pre-training may serve several"""
    time_limit_s: float | None = None
    judge_every: int | None = None
    """Images between two measurements; None: as `training` has it"""
    keeps: bool = False
    """Keep the average at each measurement"""
    compiles: bool = False
    """Have kernels written for the network; of a GPU only"""
    shuffled: bool = False
    """Pair species with any call: the twin that must stay at chance"""


@dataclass(frozen=True, slots=True, eq=False)
class FittedGenerator:
    """A trained generator with what it learnt from."""

    training: Training
    progress: Progress
    order: GeneratorOrder
    calls: Calls
    result: Mapping[str, Any]

    @property
    def encoder(self) -> Bundle:
        """Return the encoder's bundle.

        Raises:
            OrderError: it is not the one that the calls were heard with.
            BundleError: it cannot be opened.
        """
        return encoder_of(self.order, self.training.identity["encoder_id"])

    @property
    def finished(self) -> bool:
        """Return whether all images were seen."""
        return self.progress.images_seen >= self.training.plan.images_seen


def fit_generator(order: GeneratorOrder) -> FittedGenerator:
    """Train a generator, as far as its time limit lets it, and write its result.

    Raises:
        DataError, OrderError, ValueError, BundleError: data, order, checkpoint or encoder do not
            fit.
    """
    training, calls = prepared(order)
    with alone_in(order.folder):
        progress = start_or_resume(training, resume=order.resume, begin_from=order.begin_from)
        if order.compiles and (trouble := compile_network(training)):
            tqdm.write(f"the network cannot be compiled ({trouble}); going on without")
        n_before = progress.step
        train(training, progress)
        result = describe_result(order, training, progress)
        if progress.step == n_before:
            result |= told_before(order.folder)
        (order.folder / RESULT).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return FittedGenerator(training, progress, order, calls, result)


def prepared(order: GeneratorOrder) -> tuple[Training, Calls]:
    """Return a training at its beginning, and the calls that it hears.

    Raises:
        DataError, OrderError, ValueError, BundleError: as `fit_generator`.
    """
    check_order(order)
    if order.n_threads:
        torch.set_num_threads(order.n_threads)
    profile = changed(profile_named(order.profile), order.changes)
    images, calls, encoder_id = material(order)
    lessons = lessons_for(images, calls, profile, order.condition)
    lessons = shuffled(lessons) if order.shuffled else lessons
    return set_up(order, profile, encoder_id, lessons), calls


def material(order: GeneratorOrder) -> tuple[ImageSet, Calls, str]:
    """Return what is learnt from, and the id of the encoder that heard the calls.

    Raises:
        OrderError: neither folders nor a packed one are named, or both, or another encoder.
    """
    if order.packed is not None:
        if order.data or order.images:
            raise OrderError("--packed holds recordings and photographs: leave out the folders")
        packed = load_packed(order.packed, order.cache)
        if order.encoder:
            encoder_of(order, packed.encoder_id)  # needed for the bundle, after hours
        calls = packed.calls_for(order.condition).of_tiers(order.tiers)
        return packed.images, calls.without_fold(order.fold), packed.encoder_id
    if order.data is None or order.images is None:
        raise OrderError("nothing to learn from: name --data and --images, or --packed")
    if not order.encoder:
        raise OrderError("nothing hears the calls: name the bundle of an --encoder")
    encoder = load_bundle(find_bundle(order.encoder))
    images = load_images(read_photographs(order.images), order.cache)
    calls = load_calls(encoder, order.data, order.cache, order.background, order.tiers)
    return images, calls.without_fold(order.fold), encoder.encoder_id


def encoder_of(order: GeneratorOrder, encoder_id: str) -> Bundle:
    """Return the bundle of the encoder that calls were heard with.

    Raises:
        OrderError: the order names another.
        BundleError: it cannot be opened.
    """
    bundle = load_bundle(find_bundle(order.encoder))
    if bundle.encoder_id != encoder_id:
        raise OrderError(f"--encoder is {bundle.encoder_id}: name the bundle of {encoder_id}")
    return bundle


def set_up(order: GeneratorOrder, profile: Profile, encoder_id: str, lessons: Lessons) -> Training:
    """Return a training at its beginning."""
    device, plan = choose_device(order.device), plan_of(order, profile)
    precision = choose_precision(order.precision, device)
    torch.manual_seed(order.seed)
    network = UNet(config_named(profile, order.size))
    diffusion = diffusion_of(profile, pixel_deviation(lessons))
    generator = Generator(Denoiser(network, diffusion), len(lessons.species))
    generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Training(
        generator=generator,
        average=copy.deepcopy(generator).requires_grad_(False),
        optimiser=torch.optim.Adam(
            generator.parameters(), plan.learning_rate, betas=(0.9, 0.99), fused=True
        ),
        lessons=lessons,
        profile=profile,
        plan=plan,
        identity=identity_of(order, encoder_id, lessons, plan),
        device=device,
        precision=precision,
        folder=order.folder,
        judge=Look(lessons, profile, device, precision, order.folder),
        shelf=shelf_on(device, lessons, profile) if device.type == "cuda" else None,
    )


def plan_of(order: GeneratorOrder, profile: Profile) -> Plan:
    """Return how long an order trains; where it goes on, as its checkpoint was begun."""
    images_seen = order.images_seen or profile.images_seen
    shares = {"pretrain_images": profile.pretrain_share, "half_images": profile.half_share}
    begun_with: dict[str, Any] = {"learning_rate": profile.learning_rate}
    begun_with |= {name: round(share * images_seen) for name, share in shares.items()}
    kept = order.folder / PLAN
    if order.resume and kept.is_file():
        # Of a training from before there were halves, none were.
        begun_with |= {"half_images": 0} | json.loads(kept.read_text(encoding="utf-8"))
    asked = {name: getattr(order, name) for name in BEGUN_WITH}
    chosen = begun_with | {name: value for name, value in asked.items() if value is not None}
    return Plan(
        images_seen=images_seen,
        pretrain_images=chosen["pretrain_images"],
        half_images=chosen["half_images"],
        batch_size=order.batch_size or profile.batch_size,
        learning_rate=chosen["learning_rate"],
        seed=order.seed,
        time_limit_s=order.time_limit_s,
        judge_every=order.judge_every or JUDGE_EVERY,
        keeps=order.keeps,
    )


def identity_of(
    order: GeneratorOrder, encoder_id: str, lessons: Lessons, plan: Plan
) -> dict[str, Any]:
    """Return what must be the same for a training to go on."""
    heard = hashlib.sha256(lessons.conditions.tobytes())
    return {
        "profile": order.profile,
        "size": order.size,
        "condition": order.condition,
        "seed": order.seed,
        "fold": order.fold,
        "shuffled": order.shuffled,
        "changes": " ".join(order.changes),
        "batch_size": plan.batch_size,
        "encoder_id": encoder_id,
        "images": lessons.images.content_hash[:16],
        "calls": heard.hexdigest()[:16],
    }


def start_or_resume(
    training: Training, *, resume: bool, begin_from: Path | None = None
) -> Progress:
    """Return where to begin.

    Raises:
        OrderError: there is a checkpoint and nobody said what to do with it, or none to begin
            from.
    """
    exists = training.checkpoint.is_file()
    if exists and not resume:
        raise OrderError(
            f"{training.folder} holds a checkpoint: add --resume to go on, or give another --run"
        )
    begun = {name: getattr(training.plan, name) for name in BEGUN_WITH}
    (training.folder / PLAN).write_text(json.dumps(begun) + "\n", "utf-8")
    if exists:
        return load_checkpoint(training)
    if begin_from is None:
        return Progress()
    if not (begin_from / training.checkpoint.name).is_file():
        raise OrderError(f"--begin-from {begin_from} holds no checkpoint: name a --run folder")
    return branch_off(training, begin_from / training.checkpoint.name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return what convolutions run in: bfloat16 where the device has units for it.

    Emulated, bfloat16 takes ten times as long as float32.
    """
    if name == "auto":
        fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def pixel_deviation(lessons: Lessons) -> float:
    """Return the standard deviation of the garden's training pixels, in -1..1."""
    pixels = pixels_of(lessons, lessons.images.where(GARDEN, TRAIN))
    return round(float(pixels.std()), 4)


def check_order(order: GeneratorOrder) -> None:
    """Check what an order says before anything is read.

    Raises:
        ValueError: a name that there is none of, or a number that cannot be meant.
    """
    config_named(profile_named(order.profile), order.size)
    for what in ("images_seen", "batch_size", "n_threads", "learning_rate"):
        if (value := getattr(order, what)) is not None and not value > 0:
            raise ValueError(f"{what} is {value}; must be above 0")
    for what in ("pretrain_images", "half_images"):
        if (getattr(order, what) or 0) < 0:
            raise ValueError(f"{what} is {getattr(order, what)}; 0 or more")
    for what, name, known in (
        ("condition", order.condition, CONDITIONS),
        ("precision", order.precision, PRECISIONS),
    ):
        if name not in known:
            raise ValueError(f"{what} is {name!r}; one of {', '.join(known)}")
    if order.shuffled and order.condition == "label":
        raise ValueError("condition is 'label', which hears no calls: there are none to shuffle")


def describe_result(
    order: GeneratorOrder, training: Training, progress: Progress
) -> dict[str, Any]:
    """Return what a reader needs to repeat or doubt a training."""
    plan, network = training.plan, training.generator.denoiser.network
    return {
        **training.identity,
        "images_seen": progress.images_seen,
        "pretrain_images": min(plan.pretrain_images, progress.images_seen),
        "half_images": min(plan.half_images, progress.images_seen),
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "learning_rate": plan.learning_rate,
        "n_weights": count_weights(network),
        "precision": str(training.precision).removeprefix("torch."),
        "tiers": order.tiers,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe_device(training.device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "skipped": dict(training.lessons.images.skipped),
        "history": progress.history,
    }


def told_before(folder: Path) -> dict[str, Any]:
    """Return where a training was done, as its last leg told: an export is none."""
    try:
        kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: kept[name] for name in OF_THE_LEG if name in kept}
