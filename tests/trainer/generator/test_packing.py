"""What travels is what was there: exactly for what is painted, nearly for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.generator.tiny import HEARD, calls, heard, photographs  # noqa: E402
from trainer.data.images import GARDEN, load_images, read_photographs  # noqa: E402
from trainer.data.recordings import DataError  # noqa: E402
from trainer.evaluation.trainings import calls_to_paint  # noqa: E402
from trainer.generator.packing import Packed, load_packed, pack  # noqa: E402


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    """Return drawings and calls that were packed and opened again."""
    images = load_images(read_photographs(photographs(tmp_path / "photographs")), tmp_path)
    pack("0123456789abcdef", images, calls(), heard(), tmp_path / "packed")
    return load_packed(tmp_path / "packed", tmp_path / "cache")


def test_the_gardens_pixels_are_the_same(packed: Packed, tmp_path: Path) -> None:
    """And those to pre-train on look alike."""
    images = load_images(read_photographs(tmp_path / "photographs"), tmp_path)
    garden = np.array([p.set == GARDEN for p in images.photographs])
    np.testing.assert_array_equal(packed.images.pixels[garden], images.pixels[garden])
    rest = packed.images.pixels[~garden].astype(float) - images.pixels[~garden]
    assert np.abs(rest).mean() < 3
    assert [(p.file, p.split) for p in packed.images.photographs] == [
        (p.file, p.split) for p in images.photographs
    ]


def test_calls_are_the_same_to_a_hundredth(packed: Packed) -> None:
    """Of what lies between them; folds and species too. Log-mels only of windows as they are."""
    given = calls()
    bound = given.embedding.std(axis=0) / 150
    assert (np.abs(packed.calls.embedding - given.embedding) < bound).all()
    np.testing.assert_array_equal(packed.calls.species, given.species)
    assert [r.fold for r in packed.calls.recordings] == [r.fold for r in given.recordings]
    mels = packed.calls_for("mel")
    assert set(mels.variant.tolist()) == {0}
    np.testing.assert_allclose(mels.mel, given.mel[given.variant == 0], rtol=1e-3)


def test_what_is_judged_by_is_of_the_fold_and_as_told(packed: Packed) -> None:
    """Two species are painted, each with one recording in fold 0."""
    paints = tuple(sorted(HEARD))
    told = calls_to_paint(packed, paints, 0, "embedding")
    assert [paints[s] for s in told.species] == list(HEARD)
    np.testing.assert_array_equal(told.embedding, heard().embedding[[0, 3]])
    np.testing.assert_array_equal(
        calls_to_paint(packed, paints, 0, "mel").embedding, heard().mel[[0, 3]]
    )
    assert calls_to_paint(packed, paints, None, "label").by_label


def test_no_packed_folder_is_refused(tmp_path: Path) -> None:
    """In words."""
    with pytest.raises(DataError, match="is no packed folder"):
        load_packed(tmp_path, tmp_path)
