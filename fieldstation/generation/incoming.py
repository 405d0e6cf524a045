"""Reads a picture that somebody sent: a PNG as a fieldstation writes it, nothing else.

What a broker delivers may be made to harm whoever opens it. So nothing is decoded before its
size, its kind and its checksums are known; chunks that a fieldstation never writes (profiles,
animations, compressed texts) are refused rather than understood.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 64_000
MAX_SIDE = 512
"""Pixels"""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNKS = {b"IHDR", b"tEXt", b"iTXt", b"IDAT", b"IEND"}
HEADER = struct.Struct(">IIBBBBB")
"""Width, height, bits, colour type, compression, filter, interlace"""
EIGHT_BIT_RGB = (8, 2, 0, 0, 0)


class NotAPicture(ValueError):
    """What was sent is no picture that a fieldstation made; the text says why."""


def read_picture(content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG, uint8 [height, width, 3].

    Raises:
        NotAPicture: too large, damaged, or not as a fieldstation writes it.
    """
    if len(content) > MAX_BYTES:
        raise NotAPicture(f"it has {len(content)} bytes; at most {MAX_BYTES}")
    chunks = list(_chunks(content))
    width, height = _size(chunks)
    # Exactly as much as the header promises, so that a bomb bursts here and stays small.
    expected = height * (1 + 3 * width)
    inflating = zlib.decompressobj()
    try:
        rows = inflating.decompress(
            b"".join(data for kind, data in chunks if kind == b"IDAT"), expected + 1
        )
    except zlib.error as error:
        raise NotAPicture(f"its pixels are damaged: {error}") from error
    if len(rows) != expected or not inflating.eof or inflating.unused_data:
        raise NotAPicture(f"its pixels are not {width} × {height}")
    return _decode(content)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a PNG's chunks as (kind, data), each with a checksum that is right."""
    if not content.startswith(SIGNATURE):
        raise NotAPicture(f"it is no PNG: it begins with {content[:8]!r}")
    at = len(SIGNATURE)
    while at < len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + length]
        checksum = content[at + 8 + length : at + 12 + length]
        if len(checksum) != 4:
            raise NotAPicture(f"it breaks off in a chunk {kind!r}")
        if zlib.crc32(kind + data) != int.from_bytes(checksum):
            raise NotAPicture(f"its chunk {kind!r} has a wrong checksum")
        if kind not in CHUNKS:
            raise NotAPicture(f"it has a chunk {kind!r}, which no fieldstation writes")
        if kind == b"iTXt" and data.partition(b"\0")[2][:1] != b"\0":
            raise NotAPicture("it has a compressed text, which no fieldstation writes")
        yield kind, data
        at += 12 + length


def _size(chunks: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Return width and height of a picture in eight-bit RGB."""
    kinds = [kind for kind, _ in chunks]
    once = kinds.count(b"IHDR") == kinds.count(b"IEND") == 1
    if not once or kinds[0] != b"IHDR" or kinds[-1] != b"IEND" or len(chunks[0][1]) != 13:
        raise NotAPicture("its chunks are not in order")
    width, height, *kind = HEADER.unpack(chunks[0][1])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise NotAPicture(f"it is {width} × {height} pixels; at most {MAX_SIDE} a side")
    if tuple(kind) != EIGHT_BIT_RGB:
        raise NotAPicture(f"it is not 8-bit RGB without interlace: {kind}")
    return width, height


def _decode(content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            return np.asarray(picture, np.uint8).copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise NotAPicture(f"it cannot be decoded: {error}") from error
