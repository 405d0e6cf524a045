"""The training loop: resumable to the step, the same on CPU and GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from trainer.data.corpus import TrainingWindows
from trainer.encoder.profiles import Profile

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


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A network, its optimiser, what they learn from, and the folder they are kept in."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    windows: TrainingWindows
    profile: Profile
    n_epochs: int
    seed: int
    device: torch.device
    folder: Path
    judge: Judge

    @property
    def checkpoint(self) -> Path:
        """Return where the checkpoint is kept."""
        return self.folder / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        """Return the JSONL file that gets a line an epoch."""
        return self.folder / "metrics.jsonl"


def train(training: Training, progress: Progress) -> Progress:
    """Train from `progress` to the last epoch, keeping checkpoints on the way."""
    while progress.epoch < training.n_epochs:
        run_epoch(training, progress)
        close_epoch(training, progress)
    return progress


def run_epoch(training: Training, progress: Progress) -> None:
    """Take the steps of an epoch that are not done yet."""
    generator = np.random.default_rng((training.seed, progress.epoch))
    order = training.windows.epoch(generator)
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
        progress.loss += take_step(training, batch)
        progress.step += 1
        bar.set_postfix(loss=f"{progress.loss / progress.step:.3f}", refresh=False)
        now = time.monotonic()
        progress.seconds, started_at = progress.seconds + now - started_at, now
        if now - saved_at > CHECKPOINT_EVERY_S:
            save_checkpoint(training, progress)
            saved_at = now


def take_step(training: Training, batch: NDArray[np.int64]) -> float:
    """Learn from one batch of window indices; return its mean loss."""
    windows = training.windows
    waveform = torch.from_numpy(windows.windows.read(batch)).to(training.device)
    target = torch.from_numpy(windows.target[batch]).to(training.device)
    logits: Tensor = training.network(waveform)[0]
    loss = nn.functional.cross_entropy(logits, target)
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    training.optimiser.step()
    return float(loss.detach())


def close_epoch(training: Training, progress: Progress) -> None:
    """Judge the network, write the epoch's line, move on, and save."""
    started_at = time.monotonic()
    training.network.eval()
    line = {
        "epoch": progress.epoch + 1,
        "loss": progress.loss / progress.step,
        **training.judge(training.network),
    }
    progress.seconds += time.monotonic() - started_at
    line["seconds"] = round(progress.seconds, 1)
    progress.history.append(line)
    with training.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
    save_checkpoint(training, progress)


def save_checkpoint(training: Training, progress: Progress) -> None:
    """Write everything that resuming needs, whole or not at all."""
    state: dict[str, Any] = {
        "network": training.network.state_dict(),
        "optimiser": training.optimiser.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "profile": training.profile.name,
        "seed": training.seed,
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": progress.seconds,
        "loss": progress.loss,
        "history": progress.history,
    }
    temporary = training.checkpoint.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(training.checkpoint)


def load_checkpoint(training: Training) -> Progress:
    """Bring a training to where its checkpoint stands.

    Raises:
        ValueError: the checkpoint is of another profile or seed.
    """
    state = torch.load(training.checkpoint, map_location=training.device, weights_only=True)
    for name, wanted in (("profile", training.profile.name), ("seed", training.seed)):
        if state[name] != wanted:
            raise ValueError(
                f"{training.checkpoint} was trained with {name} {state[name]!r}, not {wanted!r}: "
                "give another --run, or drop --resume"
            )
    training.network.load_state_dict(state["network"])
    training.optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["torch_rng"].cpu())
    return Progress(
        state["epoch"], state["step"], state["seconds"], state["loss"], state["history"]
    )
