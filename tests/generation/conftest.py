"""A generator that paints each bird in its colour."""

from __future__ import annotations

import pytest

from fieldstation.bundle import Bundle
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.painter import Painter
from tests.onnx_models import make_painting_bundle


@pytest.fixture(scope="session")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that paints the Chaffinch red and the Great Tit green."""
    return make_painting_bundle(tmp_path_factory.mktemp("generation") / "paints")


@pytest.fixture(scope="session")
def painter(painting: Bundle) -> Painter:
    """Return its painter."""
    return Painter(painting, OnnxDenoiser(painting, "cpu"))
