"""The training loop: resumable to the step, by images seen or by the clock."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from trainer.checkpoints import write_whole
from trainer.data.images import GARDEN, PRETRAIN
from trainer.generator.augmentation import augmented, mirrored
from trainer.generator.batches import Shelf, drawn_on
from trainer.generator.course import NULL, Draw, Lessons, draw, pixels_of
from trainer.generator.diffusion import Denoiser, loss_of, power_decay
from trainer.generator.networks import N_CONDITION
from trainer.generator.profiles import Profile

CHECKPOINT = "checkpoint.pt"
AVERAGES = "averages"
"""Folder of those that were kept"""
CHECKPOINT_EVERY_S = 180.0
LINES_A_JUDGEMENT = 10
"""Lines of metrics between two measurements"""
JUDGE_EVERY = 20_000
"""Images between two measurements on `val` and sheets of samples, unless the plan says otherwise"""

BRANCH_AGREES = ("profile", "size", "images")
"""What two trainings must have in common for one to branch off the other"""

Judge = Callable[["Generator", "Progress"], Mapping[str, Any]]
"""What is measured now and then, of the average"""


class Diverged(ValueError):
    """The weights are no numbers any more: hours more would not mend them."""


class Generator(nn.Module):
    """A denoiser with the vectors that it is told instead of a call."""

    def __init__(self, denoiser: Denoiser, n_species: int) -> None:
        """Build it; the label vectors begin like embeddings, far apart, the null vector as zero."""
        super().__init__()
        self.denoiser = denoiser
        self.labels = nn.Parameter(torch.randn(n_species, N_CONDITION))
        self.null = nn.Parameter(torch.zeros(N_CONDITION))

    def conditions(self, drawn: Draw, rows: Tensor) -> Tensor:
        """Return a batch's conditions [batch, 512] from rows of calls, label and null vectors."""
        species = torch.from_numpy(drawn.species).to(rows.device)
        is_row = torch.from_numpy(drawn.row >= 0).to(rows.device)[:, None]
        return self.mixed(species, is_row, rows)

    def mixed(self, species: Tensor, is_row: Tensor, rows: Tensor) -> Tensor:
        """Return rows, and label vectors or the null vector (`NULL`) where there is no row."""
        vectors = torch.where((species == NULL)[:, None], self.null, self.labels[species])
        return torch.where(is_row, rows, vectors)


@dataclass(slots=True)
class Progress:
    """Where a training stands: everything a checkpoint keeps beside the weights."""

    step: int = 0
    images_seen: int = 0
    """Those of the pre-training included"""
    seconds: float = 0.0
    loss: float | Tensor = 0.0
    """Sum over the steps since the last line; a tensor while a GPU is still at it"""
    n_losses: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """What the judge said"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast."""

    images_seen: int
    pretrain_images: int
    batch_size: int
    learning_rate: float
    seed: int
    time_limit_s: float | None = None
    judge_every: int = JUDGE_EVERY
    """Images; on a GPU they pass in seconds"""
    keeps: bool = False
    """Keep the average as it was at each measurement: a long training may grow worse"""
    half_images: int = 0
    """Of all, the first ones: seen at half the side, twice as many at a step"""

    def batch_at(self, images_seen: int) -> int:
        """Return how many images the step after so many takes."""
        return self.batch_size * (2 if self.is_half_at(images_seen) else 1)

    def is_half_at(self, images_seen: int) -> bool:
        """Return whether images are seen at half their side after so many.

        A U-Net of convolutions takes any side, and what a bird looks like is learnt three times as
        fast where it is small (docs/experiments.md).
        """
        return images_seen < self.half_images


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A generator, its optimiser, what they learn from, and the folder they are kept in."""

    generator: Generator
    average: Generator
    """Power-function average of its weights"""
    optimiser: torch.optim.Optimizer
    lessons: Lessons
    profile: Profile
    plan: Plan
    identity: Mapping[str, Any]
    """What a checkpoint must agree in to be gone on from"""
    device: torch.device
    precision: torch.dtype
    """Of the network's convolutions: float32, or bfloat16 under autocast"""
    folder: Path
    judge: Judge
    shelf: Shelf | None = None
    """The lessons on a GPU, which then draws for itself; None: the CPU draws"""

    @property
    def checkpoint(self) -> Path:
        """Return where the checkpoint is kept."""
        return self.folder / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """Return the JSONL file of the training."""
        return self.folder / "metrics.jsonl"


def train(training: Training, progress: Progress) -> Progress:
    """Train from `progress` until the images are seen, the time is over or a signal comes."""
    plan, began_at = training.plan, time.monotonic()
    training.generator.train()
    saved_at = since = began_at
    ends_at = math.inf if plan.time_limit_s is None else began_at + plan.time_limit_s
    with stop_signal() as asked, _bar(plan, progress) as bar:
        while progress.images_seen < plan.images_seen and not asked() and since < ends_at:
            progress.loss += take_step(training, progress)
            progress.n_losses += 1
            progress.step += 1
            n_images = plan.batch_at(progress.images_seen)
            progress.images_seen += n_images
            now = time.monotonic()
            progress.seconds, since = progress.seconds + now - since, now
            bar.update(n_images)
            report_in_passing(training, progress, n_images)
            if now - saved_at > CHECKPOINT_EVERY_S:
                save_in_passing(training, progress)
                saved_at = now
    save_checkpoint(training, progress)
    return progress


def take_step(training: Training, progress: Progress) -> float | Tensor:
    """Learn from one batch, all chance drawn from seed and step; return its mean loss.

    That of a GPU stays there: asking for it at each step would leave the GPU idle.
    """
    plan = training.plan
    chance = np.random.default_rng((plan.seed, progress.step))
    torch.manual_seed(int(chance.integers(2**62)))  # dropout's, and all of a GPU's
    set_rate(training, progress.images_seen)
    if training.shelf is None:
        loss = batch_loss(training, progress.images_seen, chance)
    else:
        loss = batch_loss_on(training, training.shelf, progress.images_seen)
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(training.generator.parameters(), 1.0)
    training.optimiser.step()
    follow(
        training.average,
        training.generator,
        power_decay(progress.step, training.profile.average_width),
    )
    return float(loss.detach()) if training.shelf is None else loss.detach().double()


def batch_loss(training: Training, images_seen: int, chance: np.random.Generator) -> Tensor:
    """Return the mean loss of the batch that comes after so many images."""
    lessons, profile, device = training.lessons, training.profile, training.device
    group, plan = group_at(training, images_seen), training.plan
    drawn = draw(lessons, profile, group, plan.batch_at(images_seen), chance)
    images = mirrored(torch.from_numpy(pixels_of(lessons, drawn.image)), chance)
    augment = None
    if profile.augmentation is not None:
        images, augment = augmented(images, profile.augmentation, chance)
        augment = augment.to(device)
    if plan.is_half_at(images_seen):
        images = nn.functional.avg_pool2d(images, 2)
    denoiser = training.generator.denoiser
    sigma = torch.from_numpy(denoiser.diffusion.draw_sigma(len(images), chance)).float()
    noise = torch.from_numpy(chance.standard_normal(images.shape, np.float32))
    rows = torch.from_numpy(lessons.conditions[drawn.row]).to(device)
    condition = training.generator.conditions(drawn, rows)
    with autocast(device, training.precision):
        losses = loss_of(
            denoiser, images.to(device), sigma.to(device), noise.to(device), condition, augment
        )
    return losses.mean()


def batch_loss_on(training: Training, shelf: Shelf, images_seen: int) -> Tensor:
    """Return the mean loss of the batch that a GPU draws after so many images."""
    group, plan = group_at(training, images_seen), training.plan
    batch = drawn_on(shelf, training.profile, group, plan.batch_at(images_seen))
    images = batch.images
    if plan.is_half_at(images_seen):
        images = nn.functional.avg_pool2d(images, 2)
    denoiser = training.generator.denoiser
    sigma = denoiser.diffusion.draw_sigma_on(len(images), training.device)
    condition = training.generator.mixed(batch.species, batch.is_row, batch.rows)
    noise = torch.randn_like(images)
    with autocast(training.device, training.precision):
        losses = loss_of(denoiser, images, sigma, noise, condition, batch.augment)
    return losses.mean()


def compile_network(training: Training) -> str:
    """Have a GPU's kernels written for the network; return why not, or nothing where it went well.

    One rehearsed step tells; without, the same step takes two to three times as long.
    """
    network = training.generator.denoiser.network
    network.compile(dynamic=False)
    training.generator.train()
    try:
        take_gradients(training)
    except Exception as error:  # noqa: BLE001 (a compiler may fail in any way; nothing is lost)
        network._compiled_call_impl = None
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    finally:
        training.optimiser.zero_grad()
    return ""


def take_gradients(training: Training) -> None:
    """Run a batch forward and backward, and wait for it."""
    if training.shelf is None:
        raise ValueError("only a GPU's network is compiled")
    batch_loss_on(training, training.shelf, training.plan.images_seen).backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()


def group_at(training: Training, images_seen: int) -> str:
    """Return which photographs are learnt from after so many."""
    pretrains = PRETRAIN in training.lessons.groups
    return PRETRAIN if pretrains and images_seen < training.plan.pretrain_images else GARDEN


def set_rate(training: Training, images_seen: int) -> None:
    """Set the learning rate for where the training stands."""
    rate = training.plan.learning_rate * rate_factor(training, images_seen)
    for group in training.optimiser.param_groups:
        group["lr"] = rate


def rate_factor(training: Training, images_seen: int) -> float:
    """Return the rate's factor: a rise, a plateau that any length suits, a fall at the end."""
    profile, total = training.profile, training.plan.images_seen
    rise = min(1.0, (images_seen + 1) / max(1, min(profile.warmup_images, total // 10)))
    falls_over = profile.cooldown_share * total
    left = (total - images_seen) / falls_over if falls_over else 1.0
    return rise * max(0.02, min(1.0, math.sqrt(max(0.0, left))))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average towards a network."""
    mine: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - decay)


def autocast(
    device: torch.device, precision: torch.dtype
) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which convolutions run in bfloat16; fp32 is none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def report_in_passing(training: Training, progress: Progress, n_images: int) -> None:
    """Report, or say why not and go on, as `save_in_passing` does."""
    try:
        report(training, progress, n_images)
    except OSError as error:
        tqdm.write(f"{training.folder} takes no metrics: {error.strerror}; going on")


def report(training: Training, progress: Progress, n_images: int) -> None:
    """Write a line where one is due; measure and sample where that is due, and at the end.

    Args:
        n_images: of the last step.

    Raises:
        Diverged: the loss is no number any more.
    """
    ended = progress.images_seen >= training.plan.images_seen
    every = training.plan.judge_every
    judging = ended or _passed(progress, n_images, every)
    if not judging and not _passed(progress, n_images, max(1, every // LINES_A_JUDGEMENT)):
        return
    loss = float(progress.loss) / max(1, progress.n_losses)
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss:g} after {progress.images_seen} images: begin another --run "
            f"at less than --learning-rate {training.plan.learning_rate:g}"
        )
    line: dict[str, Any] = {
        "step": progress.step,
        "images_seen": progress.images_seen,
        "seconds": round(progress.seconds, 1),
        "loss": loss,
        "group": group_at(training, progress.images_seen - 1),
        "is_half": training.plan.is_half_at(progress.images_seen - 1),
        "learning_rate": training.optimiser.param_groups[0]["lr"],
    }
    if judging:
        line |= training.judge(training.average.eval(), progress)
        progress.history.append(line)
        if training.plan.keeps:
            keep_average(training, progress)
    with training.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    progress.loss, progress.n_losses = 0.0, 0


def keep_average(training: Training, progress: Progress) -> Path:
    """Write the average as it is now, in the fp16 that a bundle stores it in; return the file."""
    place = training.folder / AVERAGES / f"{progress.images_seen:08d}.pt"
    place.parent.mkdir(exist_ok=True)
    write_whole({k: v.half() for k, v in training.average.state_dict().items()}, place)
    return place


def take_kept(generator: Generator, file: Path) -> None:
    """Give a generator the weights of a kept average.

    Raises:
        ValueError: there is none, or it is another network's.
    """
    try:
        kept = torch.load(file, map_location="cpu", weights_only=True)
        generator.load_state_dict({name: weights.float() for name, weights in kept.items()})
    except (OSError, AttributeError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} holds no average of this network: {error}") from error


def save_in_passing(training: Training, progress: Progress) -> None:
    """Save, or say why not and go on: a full disk at night is no reason to lose the morning."""
    try:
        save_checkpoint(training, progress)
    except OSError as error:
        training.checkpoint.with_suffix(".tmp").unlink(missing_ok=True)
        tqdm.write(f"{training.checkpoint} cannot be written: {error.strerror}; going on")


def save_checkpoint(training: Training, progress: Progress) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state: dict[str, Any] = {
        "identity": dict(training.identity),
        "pretrain_images": training.plan.pretrain_images,
        "half_images": training.plan.half_images,
        "generator": training.generator.state_dict(),
        "average": training.average.state_dict(),
        "optimiser": training.optimiser.state_dict(),
        "progress": {name: getattr(progress, name) for name in Progress.__slots__}
        | {"loss": float(progress.loss)},
    }
    write_whole(state, training.checkpoint)


def load_checkpoint(training: Training) -> Progress:
    """Bring a training to where its checkpoint stands.

    Lines of metrics that come after it go: they are to be written again.

    Raises:
        ValueError: the checkpoint is damaged, or of another training.
    """
    progress = read_checkpoint(training)
    if training.metrics.is_file():
        lines = training.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _images_seen(line) <= progress.images_seen]
        training.metrics.write_text("".join(kept), encoding="utf-8")
    return progress


def read_checkpoint(training: Training) -> Progress:
    """Bring a training to where its checkpoint stands; its folder stays as it is.

    Raises:
        ValueError: there is none, it is damaged, or of another training.
    """
    return _load(training, training.checkpoint, tuple(training.identity), "drop --resume")


def branch_off(training: Training, checkpoint: Path) -> Progress:
    """Bring a training to where another one stands, whose calls, encoder or condition may differ.

    So that several may share one pre-training, which hears no calls at all.

    Raises:
        ValueError: it is damaged, or its network or its photographs are others.
    """
    return _load(training, checkpoint, BRANCH_AGREES, "drop --begin-from")


def _load(training: Training, checkpoint: Path, agrees: Sequence[str], mend: str) -> Progress:
    try:
        state = torch.load(checkpoint, map_location=training.device, weights_only=True)
    except OSError as error:
        raise ValueError(f"{checkpoint} cannot be read: {error.strerror}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint} is damaged: give another --run, or {mend}") from error
    if "generator" not in state:
        raise ValueError(f"{checkpoint} is of no generator's training: {mend}")
    for name in agrees:
        found, wanted = state["identity"].get(name, ""), training.identity[name]
        if found != wanted:
            raise ValueError(
                f"{checkpoint} was trained with {name} {found!r}, not {wanted!r}: "
                f"give another --run, or {mend}"
            )
    try:
        training.generator.load_state_dict(state["generator"])
        training.average.load_state_dict(state["average"])
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} is of another network: give another --run") from error
    training.optimiser.load_state_dict(state["optimiser"])
    return Progress(**state["progress"])


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield whether SIGINT or SIGTERM has come: a step is finished before the training stops."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _images_seen(line: str) -> float:
    """Return where a line of metrics was written; a broken-off line counts as never."""
    try:
        return float(json.loads(line)["images_seen"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _passed(progress: Progress, n_images: int, every: int) -> bool:
    """Return whether the last step's images passed a multiple of `every`."""
    return progress.images_seen // every > (progress.images_seen - n_images) // every


def _bar(plan: Plan, progress: Progress) -> Any:
    return tqdm(
        initial=progress.images_seen,
        total=plan.images_seen,
        unit="image",
        unit_scale=True,
        mininterval=2.0,
        disable=None,
    )
