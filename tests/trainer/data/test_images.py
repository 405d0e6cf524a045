"""Photographs: read, cropped, cached, packed, and refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.photographs import photograph_rows, write_photographs
from trainer.data.images import (
    GARDEN,
    PRETRAIN,
    TRAIN,
    VAL,
    load_images,
    main,
    read_photographs,
    read_square,
    square,
)
from trainer.data.recordings import DataError

NAMES = ("Turdus merula", "Parus major")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return drawings of two species, and of one to pre-train on."""
    rows = photograph_rows(NAMES) + photograph_rows(["Erithacus rubecula"], 3, 0, PRETRAIN)
    return write_photographs(tmp_path / "photographs", rows)


def test_the_middle_square_is_kept() -> None:
    """Of a wide image with a coloured middle, the edges are cut off."""
    wide = np.zeros((60, 180, 3), np.uint8)
    wide[:, 60:120] = (200, 100, 50)
    pixels = square(Image.fromarray(wide), 64)
    assert pixels.shape == (64, 64, 3)
    # The filter reaches a pixel or two over the edge.
    assert abs(pixels[:, 2:-2].astype(int) - (200, 100, 50)).max() == 0


def test_fine_patterns_fade_instead_of_aliasing() -> None:
    """A chessboard of single pixels becomes grey when it is made smaller."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = square(Image.fromarray(board), 64).astype(int)
    assert abs(pixels - 127).max() < 16


def test_a_photograph_that_lies_on_its_side_is_put_upright(tmp_path: Path) -> None:
    """The camera's note of orientation is followed."""
    image = Image.new("RGB", (64, 64), "white")
    image.paste("black", (0, 0, 64, 20))
    note = Image.Exif()
    note[0x0112] = 6  # turned a quarter to the right to be seen
    image.save(tmp_path / "turned.png", exif=note)
    pixels = read_square(tmp_path / "turned.png", 64)
    assert pixels[30, 60].max() < 10
    assert pixels[30, 5].min() > 245


def test_sets_and_splits_stay_apart(folder: Path, tmp_path: Path) -> None:
    """What is never trained on is found under `val` alone."""
    images = load_images(read_photographs(folder), tmp_path / "cache")
    train, val = images.where(GARDEN, TRAIN), images.where(GARDEN, VAL)
    assert (len(train), len(val), len(images.where(PRETRAIN, TRAIN))) == (12, 4, 3)
    assert not set(train) & set(val)


def test_pixels_are_read_once(folder: Path, tmp_path: Path) -> None:
    """The second time they come from the cache; another content is another cache."""
    photographs = read_photographs(folder)
    first = load_images(photographs, tmp_path / "cache").pixels.copy()
    n_files = len(list((tmp_path / "cache").iterdir()))
    np.testing.assert_array_equal(load_images(photographs, tmp_path / "cache").pixels, first)
    assert len(list((tmp_path / "cache").iterdir())) == n_files
    Image.new("RGB", (70, 70), "red").save(photographs[0].path)
    again = load_images(photographs, tmp_path / "cache").pixels
    assert tuple(again[0, 0, 0]) == (255, 0, 0)


def test_a_broken_file_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    """The rest is used; the skipped one has its reason."""
    photographs = read_photographs(folder)
    photographs[1].path.write_bytes(photographs[1].path.read_bytes()[:60])
    photographs[2].path.unlink()
    images = load_images(photographs, tmp_path / "cache")
    assert [name for name, _ in images.skipped] == [photographs[1].file, photographs[2].file]
    assert len(images.pixels) == len(images.photographs) == len(photographs) - 2


def test_packed_photographs_are_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    """What is painted travels without loss, what is only learnt from nearly so."""
    packed = tmp_path / "packed"
    cache = tmp_path / "cache"
    assert main(["pack", "--images", str(folder), "-o", str(packed), "--cache", str(cache)]) == 0
    before = load_images(read_photographs(folder), cache)
    after = load_images(read_photographs(packed), cache)
    assert [p.scientific_name for p in after.photographs] == [
        p.scientific_name for p in before.photographs
    ]
    garden = before.where(GARDEN, TRAIN)
    np.testing.assert_array_equal(after.pixels[garden], before.pixels[garden])
    other = before.where(PRETRAIN, TRAIN)
    error = np.abs(after.pixels[other].astype(int) - before.pixels[other].astype(int))
    assert 0 < error.mean() < 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scientific_name\nPica pica\n", "no column file"),
        ("file,scientific_name\n,Pica pica\n", "line 2: file is empty"),
        ("file,scientific_name\na.png,\n", "line 2: scientific_name is empty"),
        ("file,scientific_name,split\na.png,Pica pica,test\n", "split is 'test'"),
        ("file,scientific_name,set\na.png,Pica pica,zoo\n", "set is 'zoo'"),
        ("file,scientific_name\na.png,Pica pica\na.png,Pica pica\n", "stands there twice"),
        ("file,scientific_name\n../a.png,Pica pica\n", "leaves the folder"),
        ("file,scientific_name\n", "names no photograph"),
    ],
)
def test_a_bad_manifest_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    """Each says where and what."""
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_photographs(tmp_path)


def test_no_manifest_and_no_readable_file_are_mistakes(tmp_path: Path, capsys) -> None:
    """The command line says so in one line and returns 2."""
    arguments = ["pack", "--images", str(tmp_path), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 2
    assert "has no images.csv" in capsys.readouterr().err
    (tmp_path / "images.csv").write_text("file,scientific_name\na.png,Pica pica\n")
    with pytest.raises(DataError, match="none of 1 photographs"):
        load_images(read_photographs(tmp_path), tmp_path / "cache")


def test_the_hash_changes_with_pixels_and_split(folder: Path, tmp_path: Path) -> None:
    """A training may go on only with the same photographs on the same sides."""
    photographs = read_photographs(folder)
    whole = load_images(photographs, tmp_path / "cache")
    fewer = load_images(photographs[1:], tmp_path / "cache")
    assert len(whole.content_hash) == 64
    assert whole.content_hash != fewer.content_hash
    assert whole.content_hash == load_images(photographs, tmp_path / "cache").content_hash
