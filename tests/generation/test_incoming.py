"""A picture from elsewhere is read as a fieldstation writes it, or refused before it is opened."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fieldstation.generation.incoming import HEADER, SIGNATURE, NotAPicture, read_picture
from fieldstation.generation.pictures import encode
from tests.generation.test_pictures import PROVENANCE, painted

GOOD = encode(painted(), PROVENANCE)


def chunk(kind: bytes, data: bytes = b"", checksum: int | None = None) -> bytes:
    """Return one chunk of a PNG."""
    crc = zlib.crc32(kind + data) if checksum is None else checksum
    return len(data).to_bytes(4) + kind + data + crc.to_bytes(4)


def png(
    width: int = 2, height: int = 2, rows: bytes | None = None, kind: Any = (8, 2, 0, 0, 0)
) -> bytes:
    """Return a PNG put together by hand, black unless `rows` are given."""
    rows = bytes(height * (1 + 3 * width)) if rows is None else rows
    header = HEADER.pack(width, height, *kind)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def other(form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture as some other program writes it."""
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, form, **options)
    return file.getvalue()


def animated() -> bytes:
    """Return a PNG of two frames."""
    return other(save_all=True, append_images=[Image.new("RGB", (8, 8), "white")])


def with_text_bomb() -> bytes:
    """Return a PNG with a text that grows from a few bytes to a megabyte."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("comment", "a" * 1_000_000, zip=True)
    return other(pnginfo=chunks)


def test_what_a_fieldstation_writes_is_read() -> None:
    """Pixels come back as they were; so does a picture put together by hand."""
    np.testing.assert_array_equal(read_picture(GOOD), painted())
    assert read_picture(png()).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no PNG"),
        (b"\x89PNG", "it is no PNG"),
        (SIGNATURE, "chunks are not in order"),
        (GOOD + b"x" * 64_000, "at most 64000"),
        (GOOD + b"trailing", "breaks off in a chunk b'ling'"),
        (GOOD[:-2], "breaks off in a chunk b'IEND'"),
        (GOOD[:500] + b"!" + GOOD[501:], "wrong checksum"),
        (other("JPEG"), "it is no PNG"),
        (other("GIF"), "it is no PNG"),
        (other(mode="P"), r"not 8-bit RGB without interlace: \[8, 3|PLTE"),
        (other(mode="RGBA"), "not 8-bit RGB"),
        (other(mode="I;16"), "not 8-bit RGB"),
        (animated(), "a chunk b'acTL'"),
        (other(icc_profile=b"x" * 300), "a chunk b'iCCP'"),
        (with_text_bomb(), "compressed text"),
        (png(kind=(8, 2, 0, 0, 1)), "without interlace"),
        (png(0, 2), "it is 0 × 2 pixels"),
        (png(513, 1), "it is 513 × 1 pixels; at most 512"),
        (png(2**31 - 1, 2**31 - 1, b""), "at most 512 a side"),
        (png(512, 512, b""), "pixels are not 512 × 512"),
        (png(2, 2, bytes(15)), "pixels are not 2 × 2"),
        (png(2, 2, b"\x09" + bytes(13)), "cannot be decoded"),
        (png() + chunk(b"IDAT"), "not in order"),
        (SIGNATURE + chunk(b"IHDR", b"short") + chunk(b"IEND"), "not in order"),
        (
            SIGNATURE + chunk(b"IHDR", HEADER.pack(2, 2, 8, 2, 0, 0, 0)) + chunk(b"IEND"),
            "pixels are not 2 × 2",
        ),
        (
            SIGNATURE
            + chunk(b"IHDR", HEADER.pack(2, 2, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b"no zlib stream")
            + chunk(b"IEND"),
            "pixels are damaged",
        ),
    ],
)
def test_anything_else_is_refused_with_the_reason(content: bytes, message: str) -> None:
    """Other formats, other chunks, other sizes than promised, bombs, what breaks off."""
    with pytest.raises(NotAPicture, match=message) as error:
        read_picture(content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_a_bomb_bursts_while_it_is_small() -> None:
    """Fifty million zeros in fifty kilobytes are refused after the first few."""
    bomb = png(2, 2, bytes(50_000_000))
    assert len(bomb) < 64_000
    tracemalloc.start()
    try:
        with pytest.raises(NotAPicture, match="pixels are not 2 × 2"):
            read_picture(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def refused_or_same(content: bytes) -> None:
    """Check that a damaged picture is refused, or that its pixels are right all the same."""
    try:
        pixels = read_picture(content)
    except NotAPicture:
        return
    np.testing.assert_array_equal(pixels, painted())


@settings(max_examples=200)
@given(where=st.integers(0, len(GOOD) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_byte_never_gets_through(where: int, flip: int, cut: bool) -> None:
    """Every chunk has a checksum, and every one is looked at."""
    damaged = bytearray(GOOD)
    damaged[where] ^= flip
    refused_or_same(bytes(damaged[:where] if cut else damaged))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"IHDR", b"IDAT", b"IEND", b"tEXt", b"iTXt"]),
            st.one_of(
                st.binary(max_size=40),
                st.builds(zlib.compress, st.binary(max_size=60)),
                st.builds(
                    HEADER.pack,
                    st.integers(0, 600),
                    st.integers(0, 600),
                    *[st.integers(0, 9)] * 5,
                ),
            ),
        ),
        max_size=6,
    )
)
def test_chunks_of_any_content_are_read_or_refused(chunks: list[tuple[bytes, bytes]]) -> None:
    """No sequence of well-formed chunks raises anything else than a refusal."""
    content = SIGNATURE + b"".join(chunk(*part) for part in chunks)
    with contextlib.suppress(NotAPicture):
        assert read_picture(content).shape[2] == 3
