"""What a patient teacher said of the newest mixtures, to be learnt from again.

BirdNET takes four times as long to hear a mixture as a student takes to learn from it. A mixture
that is recalled a few times, among tens of thousands, is not learnt by heart, and costs no teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """Mixtures, and what was made of them; tensors of as many rows."""

    mel: Tensor
    """What the student sees, [n, n_mels, frames]"""
    target: Tensor
    """Probability of each label, [n, labels]"""
    wanted: Tensor
    """The teacher's probability of each name that it ever heard, [n, heard]"""
    embedding: Tensor
    """The teacher's, [n, values]"""


class Memory:
    """The newest mixtures, in half precision: a log-mel takes 49 kB."""

    def __init__(self, capacity: int, at_least: int = 0) -> None:
        """Hold nothing yet.

        Args:
            capacity: mixtures; the oldest give way.
            at_least: before there are so many, nothing is recalled.
        """
        self.capacity, self.at_least = capacity, min(at_least, capacity)
        self._kept: Heard | None = None
        self._n_seen = 0

    def __len__(self) -> int:
        """Return how many mixtures there are."""
        return min(self._n_seen, self.capacity)

    @property
    def is_ready(self) -> bool:
        """Return whether there are enough to be recalled."""
        return 0 < len(self) >= self.at_least

    def keep(self, heard: Heard) -> None:
        """Remember mixtures, in the place of the oldest."""
        if self._kept is None:
            self._kept = Heard(*(self._room_for(part) for part in parts(heard)))
        n = len(heard.mel)
        rows = torch.arange(self._n_seen, self._n_seen + n) % self.capacity
        for kept, part in zip(parts(self._kept), parts(heard), strict=True):
            kept[rows.to(kept.device)] = part.to(kept.dtype)
        self._n_seen += n

    def recall(self, n: int, chance: np.random.Generator) -> Heard:
        """Return some of them, each as likely as another.

        Raises:
            ValueError: there is none.
        """
        if self._kept is None:
            raise ValueError("nothing is remembered yet")
        rows = torch.from_numpy(chance.integers(len(self), size=n))
        return Heard(*(kept[rows.to(kept.device)].float() for kept in parts(self._kept)))

    def _room_for(self, part: Tensor) -> Tensor:
        shape = self.capacity, *part.shape[1:]
        return torch.empty(shape, dtype=torch.float16, device=part.device)


def parts(heard: Heard) -> list[Tensor]:
    """Return the tensors of mixtures, in their order."""
    return [getattr(heard, field.name) for field in fields(heard)]
