"""What a patient teacher said, kept to be shown again: answers cost more than learning from them.

Of a step on a processor the mixture and the teacher's answer take five sixths
(docs/experiments.md, "mixtures heard again").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Memory:
    """The last examples, in half precision on their device; nothing is taken before it is used."""

    def __init__(self, n_most: int) -> None:
        """Begin without any.

        Args:
            n_most: examples that are kept; the oldest give way.
        """
        self._n_most = n_most
        self._kept: list[Tensor] = []
        self._n_seen = 0

    def __len__(self) -> int:
        """Return how many examples are kept."""
        return min(self._n_seen, self._n_most)

    def keep(self, examples: Sequence[Tensor]) -> None:
        """Add a batch: tensors of one first dimension, of the same shapes each time."""
        n = len(examples[0])
        if not self._kept:
            self._kept = [
                torch.empty(self._n_most, *x.shape[1:], dtype=torch.float16, device=x.device)
                for x in examples
            ]
        at = (self._n_seen + torch.arange(n, device=examples[0].device)) % self._n_most
        for kept, new in zip(self._kept, examples, strict=True):
            kept[at] = new.half()
        self._n_seen += n

    def drawn(self, n: int, chance: np.random.Generator) -> list[Tensor]:
        """Return a batch of those kept, in single precision, none of them twice.

        Raises:
            ValueError: fewer than n are kept.
        """
        rows = torch.from_numpy(chance.choice(len(self), n, replace=False))
        return [kept[rows.to(kept.device)].float() for kept in self._kept]
