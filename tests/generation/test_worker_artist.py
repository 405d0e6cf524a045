"""A worker's painter on a real generator: from a job to a PNG that says what it is."""

from __future__ import annotations

import io
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as PngImage

from fieldstation.bundle import Bundle
from fieldstation.generation.artist import Artist, display_of
from fieldstation.generation.conditions import Unpaintable
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.incoming import read_picture
from fieldstation.onnx_session import CPU
from fieldstation.records import Job, Picture
from tests.store.examples import DAWN, image

EVENT = str(UUID(int=0x019DE1C6A2D27C3E8A510D6F6C1F5B11))
RED, GREEN = 0, 1


@pytest.fixture(scope="module")
def artist(painting: Bundle) -> Artist:
    """Return a painter of the Chaffinch in red and the Great Tit in green."""
    return Artist(painting, OnnxDenoiser(painting, "cpu"))


def job(painting: Bundle, embedding: bytes | None = None, **changes: object) -> Job:
    fields: dict[str, object] = {
        "id": 1,
        "event_id": EVENT,
        "station": "garden",
        "started_at": DAWN,
        "timezone": "Europe/Berlin",
        "scientific_name": "Fringilla coelebs",
        "common_name": "Chaffinch",
        "probability": 0.83,
        "encoder_id": painting.encoder_id,
        "embedding": embedding,
    }
    return Job(**{**fields, **changes})  # type: ignore[arg-type]


def hue(png: bytes) -> int:
    """Return the strongest of red, green and blue."""
    return int(np.argmax(read_picture(png).mean(axis=(0, 1))))


def test_a_job_without_an_embedding_is_painted_from_its_species(
    artist: Artist, painting: Bundle
) -> None:
    """And the file says so, with the event, the seed and the generator."""
    (painted,) = artist.paint([job(painting)])
    assert (painted.width, painted.height, hue(painted.png)) == (64, 64, RED)
    with PngImage.open(io.BytesIO(painted.png)) as opened:
        texts = opened.info
    assert (texts["Generated"], texts["condition"]) == ("true", "species")
    assert (texts["event_id"], texts["seed"]) == (EVENT, str(painted.seed))
    assert (texts["generator_id"], artist.provider) == (painting.generator_id, CPU)


def test_the_call_decides_not_the_name(artist: Artist, painting: Bundle) -> None:
    """A Great Tit's embedding under a Chaffinch's name is painted green."""
    with np.load(painting.path / "conditions.npz") as arrays:
        tit = arrays["labels"][1] * arrays["scale"] + arrays["mean"]
    embedding = tit.astype("<f2").tobytes()
    (painted,) = artist.paint([job(painting, embedding)])
    assert hue(painted.png) == GREEN


def test_the_same_event_is_the_same_picture_in_any_company(
    artist: Artist, painting: Bundle
) -> None:
    """Byte for byte: painted again after a kill, it replaces itself."""
    other = job(painting, event_id=str(UUID(int=2)), scientific_name="Parus major")
    (alone,) = artist.paint([job(painting)])
    _, beside = artist.paint([other, job(painting)])
    assert alone.seed == beside.seed
    difference = read_picture(alone.png).astype(int) - read_picture(beside.png)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"scientific_name": "Turdus merula"},
        {"embedding": b"\x00\x3c" * 512, "encoder_id": "another"},
        {"embedding": b"\x00\x3c"},
    ],
)
def test_what_cannot_be_painted_is_said(
    artist: Artist, painting: Bundle, changes: dict[str, object]
) -> None:
    """Another species, another encoder's embedding, half an embedding: parked at once."""
    with pytest.raises(Unpaintable):
        artist.paint([job(painting, **changes)])


def test_the_picture_for_people_is_larger_and_says_what_it_is(
    artist: Artist, painting: Bundle
) -> None:
    """Over a strip, with the same texts inside; made from the file, also after a restart."""
    (painted,) = artist.paint([job(painting)])
    told = Picture(image(1), "Fringilla coelebs", "Chaffinch", 0.83, DAWN, "Europe/Berlin")
    shown = display_of(painted.png, told)
    assert shown != display_of(painted.png, replace(told, common_name="Great Tit"))
    with PngImage.open(io.BytesIO(shown)) as opened:
        assert opened.width == 384
        assert opened.height > opened.width
        assert (opened.info["Generated"], opened.info["event_id"]) == ("true", EVENT)
