"""Paint a sheet of every species that a bundle paints and hears: docs/pictures.png.

    python -m bench.pictures_sheet --data FOLDER [--bundle garden] -o FILE

A row a species, painted from its first recordings that the encoder names rightly, the first with
seed 0, the next with seed 1, and so on; nothing is chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fieldstation.bundle import Bundle, find_bundle, load_bundle
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.painter import Painter, Pictures
from trainer.data.recordings import read_recordings
from trainer.evaluation.pictures import Calls, hear_calls, paint_calls

N_PICTURES = 8
GAP = 2
NAME_WIDTH = 130


def main() -> None:
    """Listen, paint and write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bundle", default="garden")
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    options.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    chosen = options.parse_args()
    bundle = load_bundle(find_bundle(chosen.bundle))
    painter = Painter(bundle, OnnxDenoiser(bundle))
    calls = hear_calls(bundle, read_recordings(chosen.data), painter.card.paints)
    rows = {s: drawn for s in np.unique(calls.species) if len(drawn := first_right(calls, s))}
    painted = {
        s: paint_calls(painter, calls, drawn, calls.species[drawn], list(range(len(drawn))))
        for s, drawn in rows.items()
    }
    sheet = laid_out({common_name(bundle, painter.card.paints[s]): p for s, p in painted.items()})
    # 256 colours of its own: a third of the size.
    sheet.quantize(256).save(chosen.output, optimize=True)


def first_right(calls: Calls, species: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the first calls of a species that the encoder names rightly, at most a row of them."""
    return np.flatnonzero(calls.is_right & (calls.species == species))[:N_PICTURES]


def common_name(bundle: Bundle, scientific_name: str) -> str:
    """Return what people call a species of the bundle."""
    return next(x.common_name for x in bundle.labels if x.scientific_name == scientific_name)


def laid_out(rows: dict[str, Pictures]) -> Image.Image:
    """Return pictures uint8 [n, side, side, 3] in rows, each behind its name."""
    step = next(iter(rows.values())).shape[1] + GAP
    sheet = Image.new("RGB", (NAME_WIDTH + N_PICTURES * step, len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 2), "generated", fill="gray")
    for y, (name, pictures) in enumerate(rows.items()):
        draw.text((4, y * step + step // 2 - 6), name, fill="black")
        for x, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (NAME_WIDTH + x * step, y * step))
    return sheet


if __name__ == "__main__":
    main()
