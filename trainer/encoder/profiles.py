"""Profiles: what `--profile` names. Importing this needs torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trainer.encoder.augmentation import Augmentation
from trainer.encoder.field import N_FRAMES, FieldEncoder
from trainer.encoder.mel import MelConfig
from trainer.encoder.paper import PaperEncoder


@dataclass(frozen=True, slots=True)
class WaveformRecipe:
    """One label a window, cross-entropy, a class for what is no bird of ours."""

    gain_db: tuple[float, float]
    """Range of the random gain of each window"""
    negative_share: float
    """Of an epoch's windows, those taught as `no bird`"""


@dataclass(frozen=True, slots=True)
class MelRecipe:
    """Soft targets, one sigmoid a label, precomputed log-mels that are mixed and masked."""

    n_frames: int
    n_per_epoch: int
    """Windows"""
    augmentation: Augmentation
    class_power: float
    """A class of n windows is drawn n^power times as often as one of one window"""
    embedding_weight: float
    """Of the distance to the teacher's embedding"""


@dataclass(frozen=True, slots=True)
class Profile:
    """An encoder and how it is trained."""

    name: str
    mel: MelConfig
    samples_per_window: int
    build: Callable[[int, MelConfig], nn.Module]
    """(labels, mel) -> network: waveform -> (logits, embedding, log-mel)"""
    recipe: WaveformRecipe | MelRecipe
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    """Adam's without, AdamW's with"""
    warmup_share: float = 0.0
    """Of all steps, in which the rate rises"""
    cosine: bool = False
    """Whether the rate falls to nothing along a cosine"""
    ema_decay: float | None = None
    """Of the weights' moving average, which is what is judged and shipped"""

    @property
    def activation(self) -> str:
        """Return what makes probabilities of the logits."""
        return "softmax" if isinstance(self.recipe, WaveformRecipe) else "sigmoid"


PROFILES = {
    "paper": Profile(
        name="paper",
        mel=MelConfig(),
        samples_per_window=66_150,
        build=PaperEncoder,
        recipe=WaveformRecipe(
            # To the letter: no augmentation. That costs it quiet recordings: docs/experiments.md
            # (2026-11-21, "takes quiet recordings for silence").
            gain_db=(0.0, 0.0),
            negative_share=0.25,
        ),
        epochs=30,
        batch_size=40,
        learning_rate=1e-3,
    ),
    "field": Profile(
        name="field",
        mel=MelConfig(n_fft=1024, hop_length=256, n_mels=96, fmin=150.0),
        samples_per_window=66_150,
        build=FieldEncoder,
        recipe=MelRecipe(
            n_frames=N_FRAMES,
            n_per_epoch=6_400,
            augmentation=Augmentation(),
            class_power=0.5,
            embedding_weight=0.5,
        ),
        epochs=40,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup_share=0.05,
        cosine=True,
        ema_decay=0.998,
    ),
}


def profile_named(name: str) -> Profile:
    """Return a profile.

    Raises:
        ValueError: there is none of that name.
    """
    if name in PROFILES:
        return PROFILES[name]
    near = difflib.get_close_matches(name, PROFILES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(PROFILES)}"
    raise ValueError(f"profile is {name!r}; {hint}")
