"""Profiles: what `--profile` names. Importing this needs torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from trainer.encoder.mel import MelConfig
from trainer.encoder.paper import PaperEncoder

PROFILE_NAMES = ("paper",)


@dataclass(frozen=True, slots=True)
class Profile:
    """An encoder and how it is trained."""

    name: str
    mel: MelConfig
    samples_per_window: int
    build: Callable[[int, MelConfig], nn.Module]
    """(labels, mel) -> network: waveform -> (logits, embedding, log-mel)"""
    activation: str
    epochs: int
    batch_size: int
    learning_rate: float
    """Adam's"""


PROFILES = {
    "paper": Profile(
        name="paper",
        mel=MelConfig(),
        samples_per_window=66_150,
        build=PaperEncoder,
        activation="softmax",
        epochs=30,
        batch_size=40,
        learning_rate=1e-3,
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
