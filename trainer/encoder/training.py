"""The training loop: resumable to the step, the same on CPU and GPU."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from trainer.checkpoints import alone_in, write_whole
from trainer.encoder.courses import Course
from trainer.encoder.profiles import Profile

CHECKPOINT = "checkpoint.pt"
"""In a training's folder"""
CHECKPOINT_EVERY_S = 180.0

Judge = Callable[[nn.Module], Mapping[str, float]]
"""What is measured after an epoch"""


@dataclass(slots=True)
class Progress:
    """Where a training stands: everything a checkpoint keeps beside the weights."""

    epoch: int = 0
    step: int = 0
    """Steps of this epoch that are done"""
    seconds: float = 0.0
    loss: float = 0.0
    """Sum over this epoch's steps"""
    history: list[dict[str, float]] = field(default_factory=list)
    teacher: str | None = None
    """Who taught the network so far, in this training or in one that it comes from"""
    begin_from: str | None = None
    """Name of the training whose network this one started with"""


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A network, its optimiser, what they learn from, and the folder they are kept in."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    course: Course
    profile: Profile
    n_epochs: int
    seed: int
    device: torch.device
    folder: Path
    judge: Judge
    time_limit_s: float | None = None
    """Of training; the rate's fall is then one of time, and the epochs are as many as fit"""
    average: nn.Module | None = None
    """Moving average of the network's weights"""
    fold: int | None = None
    """Held out: what judges it"""
    labels: tuple[str, ...] = ()
    """Scientific names in the order of the logits"""

    @property
    def outcome(self) -> nn.Module:
        """Return the network that is judged and kept: the average where there is one."""
        return self.average or self.network

    @property
    def checkpoint(self) -> Path:
        """Return where the checkpoint is kept."""
        return self.folder / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """Return the JSONL file that gets a line an epoch."""
        return self.folder / "metrics.jsonl"


def train(training: Training, progress: Progress) -> Progress:
    """Train from `progress` to the last epoch, keeping checkpoints on the way.

    Raises:
        ValueError: another training is at work in the folder.
    """
    with alone_in(training.folder):
        while progress.epoch < training.n_epochs and share_done(training, progress) < 1:
            run_epoch(training, progress)
            close_epoch(training, progress)
    return progress


def run_epoch(training: Training, progress: Progress) -> None:
    """Take the steps of an epoch that are not done yet."""
    generator = np.random.default_rng((training.seed, progress.epoch))
    order = training.course.epoch(generator)
    batches = np.array_split(order, max(1, round(len(order) / training.profile.batch_size)))
    training.network.train()
    saved_at = started_at = time.monotonic()
    bar = tqdm(
        batches[progress.step :],
        desc=f"epoch {progress.epoch + 1}/{training.n_epochs}",
        initial=progress.step,
        total=len(batches),
        mininterval=2.0,
        disable=None,
    )
    for batch in bar:
        chance = np.random.default_rng((training.seed, progress.epoch, progress.step))
        done = share_done(training, progress, progress.step / len(batches))
        if done >= 1:
            break
        set_rate(training, done)
        progress.loss += take_step(training, batch, chance)
        if training.average is not None:
            n_steps = progress.epoch * len(batches) + progress.step
            follow(training.average, training.network, average_decay(training.profile, n_steps))
        progress.step += 1
        bar.set_postfix(loss=f"{progress.loss / progress.step:.3f}", refresh=False)
        now = time.monotonic()
        progress.seconds, started_at = progress.seconds + now - started_at, now
        if now - saved_at > CHECKPOINT_EVERY_S:
            save_checkpoint(training, progress)
            saved_at = now


def share_done(training: Training, progress: Progress, of_epoch: float = 0.0) -> float:
    """Return the share of a training that is done, by its epochs or by its time."""
    by_epochs = (progress.epoch + of_epoch) / training.n_epochs
    if training.time_limit_s is None:
        return by_epochs
    return max(by_epochs, progress.seconds / training.time_limit_s)


def take_step(training: Training, batch: NDArray[np.int64], chance: np.random.Generator) -> float:
    """Learn from one batch of window indices; return its mean loss."""
    loss = training.course.loss(training.network, batch, chance)
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    training.optimiser.step()
    return float(loss.detach())


def set_rate(training: Training, done: float) -> None:
    """Set the learning rate for the share of the training that is done."""
    rate = training.profile.learning_rate * rate_factor(training.profile, done)
    for group in training.optimiser.param_groups:
        group["lr"] = rate


def rate_factor(profile: Profile, done: float) -> float:
    """Return the learning rate's factor: a rise, then a cosine (Loshchilov & Hutter 2017)."""
    if done < profile.warmup_share:
        return max(done / profile.warmup_share, 1e-2)
    if not profile.cosine:
        return 1.0
    left = (done - profile.warmup_share) / (1 - profile.warmup_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, left)))


def average_decay(profile: Profile, n_steps: int) -> float:
    """Return the moving average's decay, less at the beginning: random weights are forgotten.

    With the full decay from the first step, the average of a training of 1,800 steps was worth
    nothing in its first epochs, and kept 3 % of its random beginning to the end.
    """
    return min(profile.ema_decay or 0.0, (1 + n_steps) / (10 + n_steps))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an average towards a network; what is counted, not averaged, is copied."""
    mine, theirs = average.state_dict(), network.state_dict()
    for name, value in theirs.items():
        if value.is_floating_point():
            mine[name].lerp_(value, 1 - decay)
        else:
            mine[name].copy_(value)


def close_epoch(training: Training, progress: Progress) -> None:
    """Judge the network, write the epoch's line, move on, and save."""
    training.outcome.eval()
    line = {
        "epoch": progress.epoch + 1,
        "loss": progress.loss / max(1, progress.step),
    }
    is_last = share_done(training, progress, 1.0) >= 1
    if is_last or is_judged(progress.epoch + 1, training.n_epochs):
        started_at = time.monotonic()
        line |= training.judge(training.outcome)
        # Only here: time that ended after it was asked for would leave a last epoch unjudged.
        progress.seconds += time.monotonic() - started_at
    line["seconds"] = round(progress.seconds, 1)
    progress.history.append(line)
    with training.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
    save_checkpoint(training, progress)


def is_judged(epoch: int, n_epochs: int) -> bool:
    """Return whether an epoch is judged: of a long training one in ten or so, and the last."""
    return epoch == n_epochs or epoch % max(1, n_epochs // 12) == 0


def save_checkpoint(training: Training, progress: Progress) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state: dict[str, Any] = {
        "network": training.network.state_dict(),
        "average": training.average.state_dict() if training.average else None,
        "optimiser": training.optimiser.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "profile": training.profile.name,
        "seed": training.seed,
        "fold": training.fold,
        "labels": list(training.labels),
        "teacher": progress.teacher,
        "begin_from": progress.begin_from,
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": progress.seconds,
        "loss": progress.loss,
        "history": progress.history,
    }
    write_whole(state, training.checkpoint)


def load_checkpoint(training: Training) -> Progress:
    """Bring a training to where its checkpoint stands.

    Raises:
        ValueError: the checkpoint is of another profile, seed or fold, or its network is another.
    """
    mend = "give another --run, or drop --resume"
    state = _read(training.checkpoint, training.device, mend)
    _refuse_other_labels(training, state, training.checkpoint, mend)
    wanted = {"profile": training.profile.name, "seed": training.seed, "fold": training.fold}
    for name, value in wanted.items():
        if (found := state.get(name, value)) != value:  # older ones say no fold
            raise ValueError(
                f"{training.checkpoint} was trained with {name} {found!r}, not {value!r}: {mend}"
            )
    _load_weights(training.network, state["network"], training.checkpoint, mend)
    if training.average is not None:
        _load_weights(training.average, state["average"], training.checkpoint, mend)
    training.optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["torch_rng"].cpu())
    return Progress(
        state["epoch"],
        state["step"],
        state["seconds"],
        state["loss"],
        state["history"],
        teacher=state.get("teacher"),
        begin_from=state.get("begin_from"),
    )


def begin_with(training: Training, checkpoint: Path) -> None:
    """Give a training the network that another one came to; its average where it has one.

    Raises:
        ValueError: there is no checkpoint, its network is another, or it was taught what is to
            judge this training.
    """
    weights = _outcome_of(training, checkpoint, "--begin-from")
    for network in filter(None, (training.network, training.average)):
        _load_weights(network, weights, checkpoint, "drop --begin-from")


def averaged(training: Training, checkpoints: Sequence[Path]) -> nn.Module:
    """Return a network whose weights are the mean of what this training and others came to.

    They should lie on one path, each begun from the one before: weights of networks that never met
    have no mean that hears anything. Source: Wortsman et al. 2022 (model soups), uniform.

    Raises:
        ValueError: as `begin_with`.
    """
    mean = copy.deepcopy(training.outcome)
    for i, checkpoint in enumerate(checkpoints):
        other = copy.deepcopy(mean)
        weights = _outcome_of(training, checkpoint, "--average-with")
        _load_weights(other, weights, checkpoint, "drop --average-with")
        follow(mean, other, decay=(i + 1) / (i + 2))
    return mean


def refuse_strangers(runs: Iterable[Path], fold: int | None, option: str) -> None:
    """Refuse, before hours of training, other trainings that may not speak for one.

    Args:
        fold: held out of that one; None: none is.

    Raises:
        ValueError: as `begin_with`; only the networks are not looked at.
    """
    for run in runs:
        _read_other(run / CHECKPOINT, fold, option, torch.device("cpu"))


def _outcome_of(training: Training, checkpoint: Path, option: str) -> Mapping[str, torch.Tensor]:
    """Return the weights that another training came to, if they may speak here."""
    state = _read_other(checkpoint, training.fold, option, training.device)
    _refuse_other_labels(training, state, checkpoint, f"drop {option}")
    weights: Mapping[str, torch.Tensor] = state["average"] or state["network"]
    return weights


def _refuse_other_labels(
    training: Training, state: Mapping[str, Any], checkpoint: Path, mend: str
) -> None:
    """Refuse a network whose logits mean others: as many labels fit it, in whatever order."""
    mine, theirs = list(training.labels), state.get("labels")  # older ones say none
    if mine and theirs and mine != theirs:
        raise ValueError(f"{checkpoint} is of other labels, or of these in another order: {mend}")


def _read_other(
    checkpoint: Path, fold: int | None, option: str, device: torch.device
) -> Mapping[str, Any]:
    """Return another training's checkpoint, if it was not taught what is held out here."""
    if not checkpoint.is_file():
        raise ValueError(f"{option} {checkpoint.parent} holds no checkpoint: name a --run folder")
    state = _read(checkpoint, device, f"name another {option}")
    left_out = state.get("fold", fold)
    if fold is not None and left_out != fold:
        what = "no fold" if left_out is None else f"fold {left_out}"
        raise ValueError(
            f"{checkpoint} left out {what}, so it was taught the recordings of fold {fold}, which "
            f"are to judge this training: name another {option}"
        )
    return state


def _read(checkpoint: Path, device: torch.device, mend: str) -> Mapping[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        ValueError: it is damaged, or none of an encoder's.
    """
    try:
        state: Mapping[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint} is damaged: {mend}") from error
    if not {"network", "average"} <= state.keys():
        raise ValueError(f"{checkpoint} is of no encoder's training: {mend}")
    return state


def _load_weights(
    network: nn.Module, weights: Mapping[str, torch.Tensor], checkpoint: Path, mend: str
) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} holds another network, or one of other labels: {mend}"
        ) from error
