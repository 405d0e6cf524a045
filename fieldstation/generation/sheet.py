"""The sheet that `fieldstation paint` writes: a call beside the pictures painted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldstation.generation.painter import Pictures
from fieldstation.generation.pictures import (
    PAPER,
    STRIP_HEIGHT,
    Provenance,
    captioned,
    enlarge,
    grid,
    to_png,
)
from fieldstation.generation.spectrogram import draw_spectrogram, top_frequency

PICTURE_WIDTH = 256
CALL_WIDTH = 384
MAX_CALL_HEIGHT = 2 * PICTURE_WIDTH
GAP = 8
MAX_COLUMNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """What was heard."""

    samples: NDArray[np.float32]
    """float32 [n], mono"""
    sample_rate: int
    """Hertz"""


def make_sheet(
    sound: Sound | None, pictures: Pictures, provenance: Provenance, seeds: Sequence[int]
) -> bytes:
    """Return a PNG: the call's spectrogram, beside it a captioned picture for each seed.

    Args:
        sound: None where none was kept.
        pictures: uint8 [n, side, side, 3].
        provenance: of all of them; its seed is not looked at.
        seeds: n of them.
    """
    painted = [
        captioned(enlarge(picture, PICTURE_WIDTH), f"generated · seed {seed}")
        for picture, seed in zip(pictures, seeds, strict=True)
    ]
    n_columns = min(MAX_COLUMNS, max(2, -(-len(painted) // 2)))
    sheet = grid(painted, n_columns, GAP)
    if sound is not None:
        sheet = _beside(_draw(sound, min(sheet.height, MAX_CALL_HEIGHT)), sheet)
    caption = f"{provenance.caption} · {_source(provenance)}"
    texts = provenance.texts | {"seed": " ".join(map(str, seeds))}
    return to_png(captioned(sheet, caption), texts)


def _draw(sound: Sound, height: int) -> Image.Image:
    """Return the call's spectrogram and caption, together so high."""
    seconds = len(sound.samples) / sound.sample_rate
    top_khz = top_frequency(sound.sample_rate) / 1000
    size = (CALL_WIDTH, height - STRIP_HEIGHT)
    drawn = draw_spectrogram(sound.samples, sound.sample_rate, size)
    return captioned(drawn, f"the call · {seconds:.1f} s · 0 to {top_khz:.0f} kHz")


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    height = max(left.height, right.height)
    both = Image.new("RGB", (left.width + GAP + right.width, height), PAPER)
    both.paste(left)
    both.paste(right, (left.width + GAP, 0))
    return both


def _source(provenance: Provenance) -> str:
    origin = "painted from the call" if provenance.is_of_call else "painted from the name"
    return f"{origin} by {provenance.bundle}"
