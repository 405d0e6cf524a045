"""A generator small enough to train within a test, and lessons for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.trainer.photographs import photograph_rows, write_photographs
from trainer.data.images import PRETRAIN, load_images, read_photographs
from trainer.data.recordings import Recording
from trainer.evaluation.pictures import Calls as Heard
from trainer.generator.course import Lessons, lessons_for
from trainer.generator.diffusion import LogNormal
from trainer.generator.embeddings import Calls
from trainer.generator.networks import UNetConfig
from trainer.generator.profiles import PROFILES

TINY = UNetConfig((16, 32), n_blocks=1, n_attending=1, n_embedding=64, unshuffle=4)
TINY_PROFILE = replace(
    PROFILES["field"],
    sizes={"tiny": TINY},
    # High levels, where the colour is decided: there is little else to learn.
    noise=LogNormal(0.4, 1.2),
    batch_size=8,
    learning_rate=1e-2,
    warmup_images=100,
    n_steps=8,
)
HEARD = ("Turdus merula", "Parus major")
UNHEARD = "Erithacus rubecula"


def calls(n_per_species: int = 3, n_variants: int = 2) -> Calls:
    """Return conditions of two species, far apart; each species' first recording in fold 0."""
    recordings = tuple(
        Recording(Path(f"{name}{i}.wav"), f"{name}{i}.wav", name, fold=i, licence_tier="BAC"[i % 3])
        for name in HEARD
        for i in range(n_per_species)
    )
    owner = np.repeat(np.arange(len(recordings)), 2 * n_variants)
    sign = np.where(owner < n_per_species, 1.0, -1.0)[:, None]
    noise = np.random.default_rng(0).standard_normal((len(owner), 512)) * 0.3
    values = (sign + noise).astype(np.float32)
    variant = np.tile(np.repeat(np.arange(n_variants), 2), len(recordings))
    probability = np.full(len(owner), 0.8, np.float32)
    return Calls(recordings, values, values * 2, owner, variant, probability)


def heard() -> Heard:
    """Return a window of each of the six recordings, species in alphabetical order."""
    rows = np.arange(6 * 512, dtype=np.float32).reshape(6, 512) % 7
    species = np.array([sorted((*HEARD, UNHEARD)).index(HEARD[i // 3]) for i in range(6)])
    right = np.array([True] * 5 + [False])
    return Heard(species, rows, right, np.arange(6), rows + 1)


def photographs(folder: Path) -> Path:
    """Return a folder of drawings: two species with calls, one without, one to pre-train on."""
    rows = photograph_rows((*HEARD, UNHEARD)) + photograph_rows(
        ["Cyanistes caeruleus"], 4, 0, PRETRAIN
    )
    return write_photographs(folder, rows)


def lessons(folder: Path, condition: str = "embedding", profile: str = "field") -> Lessons:
    """Return what a tiny generator learns."""
    images = load_images(read_photographs(photographs(folder / "photographs")), folder / "cache")
    return lessons_for(images, calls(), PROFILES[profile], condition)
