"""What a training takes its batches from, and the loss of a batch.

A course draws an epoch's windows, and turns a batch of them into a loss; all its chance comes
from the generator it is given, so that a resumed training sees what an unbroken one sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.corpus import TrainingWindows
from trainer.data.windows import WindowSet
from trainer.encoder.augmentation import Augmentation, equalised, masked, mixed
from trainer.encoder.field import FieldEncoder
from trainer.encoder.mels import SILENCE, MelSet
from trainer.encoder.targets import Targets

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Generator = np.random.Generator


class Course(Protocol):
    """A source of batches and their loss."""

    def epoch(self, chance: Generator) -> Ints:
        """Return an epoch's windows in the order they are taught."""
        ...

    def loss(self, network: nn.Module, batch: Ints, chance: Generator) -> Tensor:
        """Return the mean loss of a batch of windows."""
        ...


class LabelNetwork(Protocol):
    """An encoder whose front end and whose learnt part can be asked apart."""

    def mel_of(self, waveform: Tensor) -> Tensor:
        """Return log-mels [batch, n_mels, frames] of waveforms; nothing in it is learnt."""
        ...

    def heard_in(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and embedding of log-mels."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelCourse:
    """One label a window, cross-entropy: the paper's way.

    Nothing is changed about a window, so its log-mel is computed once.
    """

    windows: TrainingWindows
    mels: Tensor
    """float32 [windows, n_mels, frames]"""
    target: Floats
    """What each window is, [windows, labels]; sums to one"""
    device: torch.device
    is_bf16: bool = False
    """Whether the network computes in bfloat16"""

    def epoch(self, chance: Generator) -> Ints:
        """Return all windows of species and the epoch's share of negatives, shuffled."""
        return self.windows.epoch(chance)

    def loss(self, network: nn.Module, batch: Ints, chance: Generator) -> Tensor:
        """Return the cross-entropy of windows."""
        mels = self.mels[torch.from_numpy(batch)].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits, _ = cast(LabelNetwork, network).heard_in(mels)
        target = torch.from_numpy(self.target[batch]).to(self.device)
        return nn.functional.cross_entropy(logits.float(), target)


@torch.inference_mode()
def mels_of(network: nn.Module, windows: WindowSet, batch_size: int = 64) -> Tensor:
    """Return the log-mels that a network's front end makes of windows, in their order."""
    front_end = cast(LabelNetwork, network)
    batches = [front_end.mel_of(torch.from_numpy(batch)) for batch in windows.batches(batch_size)]
    # A clone: what inference mode made cannot be learnt from.
    return torch.cat(batches).clone()


@dataclass(frozen=True, slots=True, eq=False)
class MelCourse:
    """Windows as log-mels with soft targets, mixed and masked: the field profile's way."""

    mels: MelSet
    recording: Ints
    """Of each window"""
    first_frame: Ints
    """Of each window, within its recording"""
    targets: Targets
    weight: NDArray[np.float64]
    """How often a window is drawn, relative to the others"""
    background: Ints
    """Windows that may be mixed under others without changing what they are"""
    n_per_epoch: int
    n_frames: int
    augmentation: Augmentation
    embedding_weight: float
    device: torch.device
    is_bf16: bool = False
    """Whether the network computes in bfloat16"""

    def epoch(self, chance: Generator) -> Ints:
        """Return windows drawn by weight."""
        share = self.weight / self.weight.sum()
        return chance.choice(len(share), self.n_per_epoch, p=share).astype(np.int64)

    def loss(self, network: nn.Module, batch: Ints, chance: Generator) -> Tensor:
        """Return binary cross-entropy, plus the distance to the teacher's embedding."""
        assert isinstance(network, FieldEncoder)
        mel, target, is_pure = self.prepared(batch, chance)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            features = network.features_of(network.last_map(mel))
            logits, guess = network.logits_of(features), network.teacher_view(features)
        loss = (
            nn.functional.binary_cross_entropy_with_logits(logits.float(), target) * target.shape[1]
        )
        if self.targets.embedding is None or not self.embedding_weight:
            return loss
        wanted = torch.from_numpy(self.targets.embedding[batch].astype(np.float32))
        distance = (guess.float() - wanted.to(self.device)).square().mean(dim=1)
        kept = is_pure / is_pure.sum().clamp(min=1)
        return loss + self.embedding_weight * (distance * kept).sum()

    def prepared(self, batch: Ints, chance: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented log-mels, targets, and 1 where no second bird was mixed in."""
        how = self.augmentation
        mel = self.cut(batch, how.shift_frames, chance)
        target = self.targets.probability[batch]
        partner = chance.permutation(len(batch))
        is_mixed = chance.random(len(batch)) < how.mix_share
        mel = np.where(
            is_mixed[:, None, None],
            mixed(mel, mel[partner], chance.uniform(*how.mix_db, len(batch))),
            mel,
        )
        target = np.where(is_mixed[:, None], np.maximum(target, target[partner]), target)
        mel = self.over_background(mel, chance)
        gain = chance.uniform(*how.gain_db, (len(batch), 1, 1)) * np.log(10) / 10
        mel = equalised(mel + gain, how.tilt_db, chance)
        mel = masked(np.maximum(mel, SILENCE), how, chance)
        as_tensor = torch.from_numpy(mel.astype(np.float32)).to(self.device)
        return (
            as_tensor,
            torch.from_numpy(target.astype(np.float32)).to(self.device),
            torch.from_numpy((~is_mixed).astype(np.float32)).to(self.device),
        )

    def over_background(self, mel: NDArray[np.float32], chance: Generator) -> NDArray[np.float32]:
        """Mix background under some of the windows."""
        how = self.augmentation
        if not len(self.background):
            return mel
        rows = np.flatnonzero(chance.random(len(mel)) < how.background_share)
        noise = self.cut(chance.choice(self.background, len(rows)), how.shift_frames, chance)
        out = mel.copy()
        out[rows] = mixed(mel[rows], noise, chance.uniform(*how.background_db, len(rows)))
        return out

    def cut(self, batch: Ints, shift: int, chance: Generator) -> NDArray[np.float32]:
        """Return log-mels [batch, n_mels, n_frames] that start near where their windows do."""
        starts = self.first_frame[batch] + chance.integers(-shift, shift + 1, len(batch))
        pairs = zip(self.recording[batch], np.maximum(starts, 0), strict=True)
        return np.stack([self.mels.cut(int(r), int(first), self.n_frames) for r, first in pairs])
