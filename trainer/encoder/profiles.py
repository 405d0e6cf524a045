"""Profiles: what `--profile` names. Importing this needs torch."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from trainer.encoder.augmentation import Augmentation
from trainer.encoder.field import N_FRAMES, FieldEncoder, FieldShape
from trainer.encoder.mel import MelConfig
from trainer.encoder.mixtures import DEFAULT_MIXING, Mixing
from trainer.encoder.paper import PaperEncoder

Changed = TypeVar("Changed")
"""A profile, the encoder's or the generator's"""


@dataclass(frozen=True, slots=True)
class LabelRecipe:
    """One label a window, cross-entropy, a class for what is no bird of ours; no augmentation."""

    negative_share: float
    """Of an epoch's windows, those taught as `no bird`"""

    def __post_init__(self) -> None:
        """Refuse a share that leaves nothing to the species."""
        if not 0 <= self.negative_share < 1:
            raise ValueError(f"negative_share is {self.negative_share}; 0 to less than 1")


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
    mixing: Mixing = DEFAULT_MIXING
    """Of waveforms, where the teacher is patient"""
    head_weight: float = 0.1
    """Of the disagreement about all names that a patient teacher ever heard"""
    rank_weight: float = 1.0
    """Of the species' order by a patient teacher, which counts where none is likely, too"""
    again_share: float = 0.8
    """Of batches, those whose mixtures and a patient teacher's answers were heard before"""
    n_remembered: int = 60_000
    """Mixtures that are kept for it: 55 kB each"""

    def __post_init__(self) -> None:
        """Refuse an epoch of nothing, and a memory of nothing where one is drawn from."""
        refuse_nothing(self, "n_per_epoch", *(["n_remembered"] if self.again_share else []))


@dataclass(frozen=True, slots=True)
class Profile:
    """An encoder and how it is trained."""

    name: str
    mel: MelConfig
    samples_per_window: int
    build: Callable[..., nn.Module]
    """(labels, mel, shape if there is one) -> network: waveform -> (logits, embedding, log-mel)"""
    recipe: LabelRecipe | MelRecipe
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
    shape: FieldShape | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing is learnt with."""
        refuse_nothing(self, "epochs", "batch_size", "learning_rate")

    def network(self, n_labels: int) -> nn.Module:
        """Return the encoder with random weights."""
        shape = () if self.shape is None else (self.shape,)
        return self.build(n_labels, self.mel, *shape)

    @property
    def activation(self) -> str:
        """Return what makes probabilities of the logits."""
        return "softmax" if isinstance(self.recipe, LabelRecipe) else "sigmoid"


def refuse_nothing(values: object, *names: str) -> None:
    """Refuse values that must be above 0 and are not.

    Raises:
        ValueError: one is not; the text names it.
    """
    for name in names:
        if not (value := getattr(values, name)) > 0:
            raise ValueError(f"{name} is {value}; must be above 0")


PROFILES = {
    "paper": Profile(
        name="paper",
        mel=MelConfig(),
        samples_per_window=66_150,
        build=PaperEncoder,
        # To the letter: no augmentation. That costs it quiet recordings: docs/experiments.md
        # (2026-11-21, "takes quiet recordings for silence").
        recipe=LabelRecipe(negative_share=0.25),
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
            embedding_weight=3.0,
        ),
        epochs=40,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup_share=0.05,
        cosine=True,
        ema_decay=0.998,
        shape=FieldShape(),
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


def changed(profile: Changed, changes: Sequence[str]) -> Changed:
    """Return a profile with some of its values changed: what an ablation is made of.

    Args:
        changes: `name=value` each, a dot before what lies deeper:
            `recipe.augmentation.mix_share=0`.

    Raises:
        ValueError: there is no such name, or it takes no such value.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--change is {change!r}; write name=value")
        profile = _with(profile, path.split("."), text, change)
    return profile


def _with(values: Any, path: Sequence[str], text: str, change: str) -> Any:
    name, *deeper = path
    names = [f.name for f in dataclasses.fields(values)]
    if name not in names:
        raise ValueError(f"--change {change}: no {name!r} here; one of {', '.join(names)}")
    old = getattr(values, name)
    if deeper and dataclasses.is_dataclass(old):
        return dataclasses.replace(values, **{name: _with(old, deeper, text, change)})
    if deeper or not isinstance(old, (bool, int, float)):
        raise ValueError(f"--change {change}: {path!r} is no number and no switch")
    return dataclasses.replace(values, **{name: _like(old, text, change)})


def _like(old: float, text: str, change: str) -> float:
    """Return a text as a value of another's type."""
    if isinstance(old, bool):
        if text not in ("true", "false"):
            raise ValueError(f"--change {change}: must be true or false")
        return text == "true"
    try:
        value = type(old)(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"--change {change}: must be a number like {old}")
    return value
