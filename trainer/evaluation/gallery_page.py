"""The report on a generator as one page: beside its pictures, the photographs nearest to them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from trainer.data.images import TRAIN
from trainer.evaluation.features import inception_features
from trainer.evaluation.generator import Gallery, Pixels, as_text, paint_like
from trainer.evaluation.page import CSS

N_EACH = 6
ENLARGED = 2

TITLES = {
    "fid": "FID",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "agreement": "agreement with the call",
    "swapped_agreement_with_donor": "with the swapped call",
    "memorised": "memorised",
    "ms_per_image": "ms an image (CPU)",
}
MORE_CSS = ".row { display: flex; gap: 4px; margin: 2px 0; } .row img { width: 6.5rem; }"


def page(report: Mapping[str, Any], gallery: Gallery) -> str:
    """Return the page; it needs no other file."""
    title = f"{report['bundle']}: pictures of calls"
    body = "\n".join(_sections(report, gallery))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{CSS}{MORE_CSS}</style><h1>{escape(title)}</h1>{body}</html>\n"
    )


def _sections(report: Mapping[str, Any], gallery: Gallery) -> Iterator[str]:
    yield (
        f'<p class="under">generator {report["generator_id"]}, made for encoder '
        f"{report['encoder_id']}; {report['n_calls']} calls</p>"
    )
    cards = [f"<div class=card><b>{report[k]}</b><span>{t}</span></div>" for k, t in TITLES.items()]
    yield f'<div class="cards">{"".join(cards)}</div>'
    yield (
        '<p class="note">Each pair of rows: pictures generated from calls, and below each the '
        "photograph nearest to it (Inception features) of those that were trained on.</p>"
    )
    for species, name in enumerate(report["paints"]):
        painted, nearest = beside_photographs(gallery, species)
        yield f"<h2>{escape(name)}</h2>{_row(painted)}{_row(nearest)}"
    yield f"<h2>In full</h2><pre>{escape(as_text(report))}</pre>"


def beside_photographs(gallery: Gallery, species: int) -> tuple[Pixels, Pixels]:
    """Return pictures of a species, and the photograph of it that is nearest to each."""
    painted = paint_like(gallery, np.full(N_EACH, species), seed=1_000 + species)
    photographs = gallery.photographs
    rows = photographs.rows(TRAIN)
    rows = rows[photographs.species[rows] == species]
    if not len(rows):
        rows = photographs.rows()
    pixels = photographs.pixels(rows)
    seen, known = (inception_features(p, gallery.cache) for p in (painted, pixels))
    distances = np.square(seen[:, None, :] - known[None, :, :]).sum(axis=2)
    return painted, pixels[distances.argmin(axis=1)]


def _row(pixels: Pixels) -> str:
    return f'<div class="row">{"".join(_image(p) for p in pixels)}</div>'


def _image(pixels: Pixels) -> str:
    side = pixels.shape[0] * ENLARGED
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return (
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
