"""Every picture says that it was generated, by what and from what: in the file and to the eye."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fieldstation import __version__
from fieldstation.generation.pictures import (
    FONT_SIZES,
    PAPER,
    STRIP_HEIGHT,
    Provenance,
    can_write,
    captioned,
    encode,
    enlarge,
    grid,
    to_png,
)
from fieldstation.generation.sampling import Sampling

PROVENANCE = Provenance(
    bundle="garden",
    generator_id="0123456789abcdef",
    encoder_id="fedcba9876543210",
    seed=4137471006376023,
    sampling=Sampling("dpmpp_2m", 16, 1.5, (0.3, 5.0), 0.002, 80.0),
    scientific_name="Fringilla coelebs",
    common_name="Common Chaffinch",
    probability=0.8349,
    event_id="01890a5d-ac96-774b-bcce-b302099a8057",
)


def painted() -> NDArray[np.uint8]:
    """Return a picture of smooth colours."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    return np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 90, np.uint8)], axis=2)


def opened(content: bytes) -> tuple[NDArray[np.uint8], dict[str, str]]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture), dict(picture.text)


def test_the_file_holds_the_pixels_and_their_provenance() -> None:
    """Nothing is lost; each line of the provenance is a text chunk that any program reads."""
    pixels, texts = opened(encode(painted(), PROVENANCE))
    np.testing.assert_array_equal(pixels, painted())
    xmp = texts.pop("XML:com.adobe.xmp")
    assert "digitalsourcetype/trainedAlgorithmicMedia" in xmp
    assert texts == {
        "Software": f"fieldstation {__version__}",
        "Generated": "true",
        "bundle": "garden",
        "generator_id": "0123456789abcdef",
        "encoder_id": "fedcba9876543210",
        "event_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "seed": "4137471006376023",
        "species": "Fringilla coelebs",
        "condition": "call",
        "probability": "0.8349",
        "solver": "dpmpp_2m",
        "steps": "16",
        "guidance": "1.5",
    }


def test_a_picture_without_an_event_claims_none() -> None:
    """Painted by hand from a species' name: no event, no probability, and said so."""
    by_name = replace(PROVENANCE, event_id=None, probability=None, is_of_call=False)
    _, texts = opened(encode(painted(), by_name))
    assert not {"event_id", "probability"} & set(texts)
    assert texts["condition"] == "species"
    assert by_name.caption == "generated · Common Chaffinch"


def test_the_same_picture_is_the_same_file() -> None:
    """A picture that is painted again changes no hash."""
    assert encode(painted(), PROVENANCE) == encode(painted(), PROVENANCE)


def test_the_picture_for_people_is_enlarged_over_a_caption() -> None:
    """Six times as large, a strip below it with something written, the provenance still there."""
    _, written = opened(encode(painted(), PROVENANCE))
    picture = captioned(enlarge(painted()), PROVENANCE.caption)
    pixels, texts = opened(to_png(picture, written))
    assert pixels.shape == (6 * 64 + STRIP_HEIGHT, 6 * 64, 3)
    small = pixels[: 6 * 64].reshape(64, 6, 64, 6, 3).mean(axis=(1, 3))
    assert np.abs(small - painted()).max() < 8
    strip = pixels[6 * 64 :]
    assert (strip == PAPER).all(axis=2).mean() > 0.5
    assert (strip.min(axis=2) > 200).sum() > 100
    assert texts == written


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("Common Chaffinch", "generated · Common Chaffinch · 0.83"),
        ("Grünfink", "generated · Fringilla coelebs · 0.83"),
        ("Зяблик", "generated · Fringilla coelebs · 0.83"),
        ("苍头燕雀", "generated · Fringilla coelebs · 0.83"),
    ],
)
def test_a_name_that_the_font_cannot_write_is_given_in_latin(name: str, caption: str) -> None:
    """Boxes in place of letters tell nobody who was heard."""
    assert replace(PROVENANCE, common_name=name).caption == caption
    assert can_write(caption)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=200))
def test_no_caption_runs_out_of_its_strip(caption: str) -> None:
    """However long a name, its picture keeps its size and its margin stays empty."""
    picture = captioned(Image.new("RGB", (128, 20)), caption)
    assert picture.size == (128, 20 + STRIP_HEIGHT)
    strip = np.asarray(picture)[20:]
    assert (strip[:, 126:] == PAPER).all()


def test_a_long_caption_is_written_smaller_before_it_is_cut() -> None:
    """A name that fits in a smaller size loses no letter."""
    wide = captioned(Image.new("RGB", (384, 10)), "generated · Common Chaffinch · 0.83")
    cut = captioned(Image.new("RGB", (60, 10)), "generated · Common Chaffinch · 0.83")

    def ink_height(picture: Image.Image) -> int:
        rows = (np.asarray(picture)[10:] != PAPER).any(axis=(1, 2))
        return int(rows.sum())

    assert ink_height(wide) > ink_height(cut) > 0
    assert ink_height(wide) <= FONT_SIZES[0] + 6


def test_a_grid_holds_every_picture_once() -> None:
    """Row by row, the last row not full."""
    colours = [(40 * i, 255 - 40 * i, 7) for i in range(5)]
    sheet = np.asarray(grid([Image.new("RGB", (4, 3), c) for c in colours], 3, gap=2))
    assert sheet.shape == (2 * 3 + 2, 3 * 4 + 2 * 2, 3)
    found = [tuple(sheet[5 * (i // 3), 6 * (i % 3)].tolist()) for i in range(5)]
    assert found == colours
    assert (sheet[5:, 12:] == PAPER).all()
