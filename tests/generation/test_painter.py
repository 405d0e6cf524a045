"""Calls become pictures: the same seed the same picture, another bird another colour."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle, BundleError
from fieldstation.generation.conditions import Call
from fieldstation.generation.denoiser import OnnxDenoiser, PaintingError
from fieldstation.generation.golden import load_generator_golden, save_generator_golden
from fieldstation.generation.painter import Painter, check_picture, psnr, to_pixels
from tests.onnx_models import COLOURS, GRAIN, make_painting_bundle, tone

CHAFFINCH, GREAT_TIT = Call("Fringilla coelebs"), Call("Parus major")


def heard(bundle: Bundle, frequency: float) -> Call:
    """Return the call that the bundle's own encoder makes of a tone."""
    waveform = tone(frequency, bundle.window_s, bundle.sample_rate)
    _, embeddings = Classifier(bundle, "cpu").run(waveform[None])
    assert embeddings is not None
    name = "Fringilla coelebs" if frequency < 3_000 else "Parus major"
    return Call(name, embeddings[0], bundle.encoder_id)


def colour(picture: NDArray[np.uint8]) -> str:
    """Return which channel a picture has most of."""
    return ("red", "green", "blue")[int(picture.mean(axis=(0, 1)).argmax())]


def test_a_call_is_painted_in_its_birds_colour(painter: Painter, painting: Bundle) -> None:
    """By its embedding, and where there is none by the species."""
    calls = [CHAFFINCH, GREAT_TIT, heard(painting, 2_000), heard(painting, 4_000)]
    conditions = np.stack([painter.condition_of(call) for call in calls])
    pictures = painter.paint(conditions, [1, 2, 3, 4])
    assert (pictures.dtype, pictures.shape) == (np.uint8, (4, 64, 64, 3))
    assert list(map(colour, pictures)) == ["red", "green", "red", "green"]


def test_an_embedding_decides_and_not_the_name(painter: Painter, painting: Bundle) -> None:
    """A Great Tit's call under a Chaffinch's name is painted as it sounds."""
    swapped = replace(heard(painting, 4_000), scientific_name="Fringilla coelebs")
    assert colour(painter.paint(painter.condition_of(swapped)[None], [1])[0]) == "green"


def test_a_seed_is_a_picture(painter: Painter) -> None:
    """Alone, in a batch, beyond a batch; another seed is another picture."""
    condition = painter.condition_of(CHAFFINCH)[None]
    many = painter.paint(np.repeat(condition, 19, axis=0), range(19))
    np.testing.assert_array_equal(many[17], painter.paint(condition, [17])[0])
    assert len({picture.tobytes() for picture in many}) == 19


def test_pictures_are_spread_as_those_that_were_learnt(painter: Painter) -> None:
    """Without guidance the pixels are N(colour, GRAIN²), as this generator's ideal has it."""
    condition = np.repeat(painter.condition_of(CHAFFINCH)[None], 4, axis=0)
    pixels = painter.paint(condition, range(4), guidance_scale=1, n_steps=30) / 127.5 - 1
    # the label's vector leaves 2 % of the mixture to the other bird
    assert pixels.mean(axis=(0, 1, 2)) == pytest.approx(COLOURS[0], abs=0.05)
    assert pixels[..., 0].std() == pytest.approx(GRAIN, rel=0.05)


def test_guidance_and_steps_are_choices(painter: Painter) -> None:
    """They change the picture and what it costs; what cannot be meant is refused."""
    condition = painter.condition_of(CHAFFINCH)[None]

    def paint(guidance: float | None, steps: int | None) -> tuple[bytes, int]:
        before = painter.n_network_calls
        picture = painter.paint(condition, [5], guidance, steps)
        return picture.tobytes(), painter.n_network_calls - before

    usual, plain, longer = paint(None, None), paint(1.0, None), paint(None, 12)
    assert len({usual[0], plain[0], longer[0]}) == 3
    assert plain[1] == 6 < usual[1] < longer[1]
    with pytest.raises(ValueError, match="n_steps is 0; 1 to 1000"):
        paint(None, 0)
    with pytest.raises(ValueError, match="guidance_scale is -1; 0 to 20"):
        paint(-1, None)
    with pytest.raises(ValueError, match="1 conditions for 2 seeds"):
        painter.paint(condition, [1, 2])


def test_nothing_to_paint_is_no_picture(painter: Painter) -> None:
    """An empty batch is empty."""
    assert painter.paint(np.empty((0, 512), np.float32), []).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "ancestral"])
def test_every_solver_of_a_card_paints(painting: Bundle, solver: str) -> None:
    """Whatever the card names is what samples."""
    assert painting.generator is not None
    bundle = replace(painting, generator=replace(painting.generator, solver=solver))
    painter = Painter(bundle, OnnxDenoiser(bundle, "cpu"))
    picture = painter.paint(painter.condition_of(GREAT_TIT)[None], [3], n_steps=20)[0]
    assert colour(picture) == "green"


def test_a_denoiser_that_gives_no_numbers_is_an_error(painting: Bundle) -> None:
    """A picture of NaN is never written."""

    class Broken:
        provider = "none"

        def __call__(
            self, x: NDArray[np.float32], sigma: float, condition: object
        ) -> NDArray[np.float32]:
            return np.full_like(x, np.nan)

    with pytest.raises(PaintingError, match=r"seeds \[9\] gave pixels that are not finite"):
        Painter(painting, Broken()).paint(np.zeros((1, 512), np.float32), [9])


def test_the_golden_picture_is_painted_again(tmp_path: Path) -> None:
    """The whole chain gives what the bundle says, and another picture is refused."""
    bundle = make_painting_bundle(tmp_path / "paints")
    painter = Painter(bundle, OnnxDenoiser(bundle, "cpu"))
    assert check_picture(painter, bundle) >= 45
    golden = load_generator_golden(bundle)
    save_generator_golden(bundle.path, replace(golden, picture=255 - golden.picture))
    with pytest.raises(BundleError, match=r"comes out .* dB from what it must be on CPUExec"):
        check_picture(painter, bundle)


def test_pixels_are_rounded_and_stay_in_range() -> None:
    """-1 is black, 1 is white, beyond is cut off, between is the nearest of 256."""
    x = np.array([-2, -1, -0.999, 0, 0.5, 1, 3], np.float32).reshape(1, 1, 1, 7)
    pixels = to_pixels(np.repeat(x, 3, axis=1))
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_psnr_is_what_it_is_defined_as() -> None:
    """One step of 255 everywhere is 48.13 dB; no difference is infinite."""
    picture = np.zeros((4, 4, 3), np.uint8)
    assert psnr(picture + 1, picture) == pytest.approx(20 * math.log10(255))
    assert psnr(picture, picture) == math.inf
