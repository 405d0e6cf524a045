"""What a patient teacher said is shown again as it was, and what is oldest gives way."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.memory import Memory  # noqa: E402

CHANCE = np.random.default_rng(0)


def examples(first: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch whose two tensors both tell which examples they are."""
    number = torch.arange(first, first + n, dtype=torch.float32)
    return number, number[:, None, None] + torch.zeros(n, 2, 3)


def test_what_is_drawn_was_kept_and_belongs_together() -> None:
    """No example twice in a batch, in single precision."""
    memory = Memory(10)
    memory.keep(examples(0, 4))
    memory.keep(examples(4, 4))
    number, values = memory.drawn(8, CHANCE)
    assert sorted(number.tolist()) == list(range(8))
    assert torch.equal(values, number[:, None, None].expand(8, 2, 3))
    assert values.dtype == torch.float32


def test_the_oldest_give_way() -> None:
    """Batches need not divide the memory."""
    memory = Memory(10)
    for first in range(0, 24, 4):
        memory.keep(examples(first, 4))
    number, values = memory.drawn(10, CHANCE)
    assert sorted(number.tolist()) == list(range(14, 24))
    assert torch.equal(values[:, 0, 0], number)


def test_more_than_is_kept_is_refused() -> None:
    """Rather than shown twice."""
    memory = Memory(10)
    assert len(memory) == 0
    memory.keep(examples(0, 4))
    with pytest.raises(ValueError, match="larger sample"):
        memory.drawn(5, CHANCE)
