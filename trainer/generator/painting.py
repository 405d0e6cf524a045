"""A training's own network at work on the device that it was trained on: for its evaluation.

A station paints from a bundle, with onnxruntime; here thousands of pictures are wanted of weights
that may never become a bundle, and one card paints them in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fieldstation.generation.guidance import Counted
from fieldstation.generation.sampling import Sampling
from trainer.data.recordings import DataError
from trainer.generator.bundling import Packaging, card_of, conditions_of, weights_of
from trainer.generator.export import Exported
from trainer.generator.fitting import RESULT, FittedGenerator, GeneratorOrder, prepared
from trainer.generator.sheets import denoise_with, paint
from trainer.generator.training import read_checkpoint

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]

AT_ONCE = {"cuda": 512, "cpu": 8}
"""Pictures in one batch"""
AS_TRAINED = (
    *("profile", "size", "condition", "changes", "fold", "seed"),
    *("batch_size", "learning_rate", "shuffled"),
)
"""What a result says of the order that it was trained by"""


@dataclass(frozen=True, slots=True)
class Run:
    """Which training, where what it learnt from lies, and where it is to paint."""

    folder: Path
    packed: Path
    cache: Path
    device: str = "auto"
    precision: str = "fp32"
    """Of the network at work; its training's may be another"""


class RunPainter:
    """What `fieldstation.generation.painter.Painter` is to a bundle, to a training."""

    def __init__(self, fitted: FittedGenerator, how: Packaging) -> None:
        """Take a training's average, or its last weights."""
        generator = weights_of(fitted, how.weights).eval()
        self.card = card_of(fitted, how, Exported(0.0, 0.0))
        self.sampling = Sampling.of_card(self.card)
        self.conditions = conditions_of(fitted, generator)
        self._device = fitted.training.device
        self.at_once = AT_ONCE[self._device.type]
        network = denoise_with(generator.denoiser, self._device, fitted.training.precision)
        self._network = Counted(network)

    @property
    def n_network_calls(self) -> int:
        """Return how many calls there were; a guided call of one picture counts two."""
        return self._network.n_calls

    def paint(self, conditions: Floats, seeds: Sequence[int]) -> Pictures:
        """Return a picture for each condition and seed, uint8 [n, 64, 64, 3]."""
        told = torch.from_numpy(np.ascontiguousarray(conditions)).to(self._device)
        null = torch.from_numpy(self.conditions.null).to(self._device)
        return paint(self._network, told, null, seeds, self.sampling, self.at_once)


def reopened(run: Run) -> FittedGenerator:
    """Return a training as its checkpoint has it.

    Raises:
        DataError: the folder holds none that can be reopened.
        ValueError: it learnt from other calls or photographs.
    """
    kept = result_of(run.folder)
    order = order_of(run, kept)
    training, calls = prepared(order)
    return FittedGenerator(training, read_checkpoint(training), order, calls, kept)


def result_of(folder: Path) -> dict[str, Any]:
    """Return what a training said of itself when it ended.

    Raises:
        DataError: no generator was trained there, or not to the end of a leg.
    """
    try:
        kept: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no result.json that can be read: name the --run of a training "
            "that has ended or was stopped"
        ) from error
    if missing := sorted(set(AS_TRAINED) - set(kept)):
        raise DataError(
            f"{folder}/result.json is no generator's: it has no {', '.join(missing)}: "
            "name the --run of `trainer.fit generator`"
        )
    return kept


def order_of(run: Run, kept: Mapping[str, Any]) -> GeneratorOrder:
    """Return the order by which a training would go on, where it is to paint."""
    return GeneratorOrder(
        data=None,
        images=None,
        encoder="",
        folder=run.folder,
        cache=run.cache,
        packed=run.packed,
        device=run.device,
        precision=run.precision,
        changes=tuple(kept["changes"].split()),
        tiers=tuple(kept["tiers"]) if kept.get("tiers") else None,
        resume=True,
        **{name: kept[name] for name in AS_TRAINED if name != "changes"},
    )
