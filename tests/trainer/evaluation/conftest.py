"""Judges that need no networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.evaluation.features import Look


@pytest.fixture(scope="module")
def judges() -> Iterator[None]:
    """Let the mean colours of a picture's sixteen parts stand for what both networks see."""
    from trainer.evaluation import features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "inception", mean_colours)
        patch.setattr(features, "efficientnet_lite", mean_colours)
        yield


def mean_colours() -> Look:
    """Return what looks at pictures uint8 [n, side, side, 3] so, [n, 48]."""
    from torch.nn.functional import adaptive_avg_pool2d

    def look(pixels: Tensor) -> Tensor:
        planes = pixels.permute(0, 3, 1, 2).float() / 10
        return adaptive_avg_pool2d(planes, 4).flatten(1)

    return look
