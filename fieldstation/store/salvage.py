"""What can still be read of a damaged SQLite file, page by page.

SQLite stops at the first page that is not as it should be, and without its first page reads
nothing at all. But every row stands in a leaf page that says by itself where it begins, so the
pages are looked at one by one, and what is no leaf, or a row that does not add up, is passed over.

Source: sqlite.org/fileformat2.html: 1.3 (header), 1.6 (b-tree pages), 2.1 (records), 4.1 (-wal).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Value = int | float | str | bytes | None

MAGIC = b"SQLite format 3\0"
LEAF = 0x0D
"""First byte of a page that holds a table's rows"""
FIRST_HEADER = 100
"""Bytes of the first page before its b-tree header"""
WAL_HEADER, FRAME_HEADER = 32, 24
WAL_MAGIC = (0x377F0682, 0x377F0683)
"""Checksums of little-endian, big-endian words"""
USUAL_PAGE = 4_096
MAX_PAYLOAD = 100_000_000
FREE_LIST = 32
"""Where in the header the first trunk page of the free list stands"""


class _Torn(Exception):
    """A page or a row that does not add up."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was found, of whichever table."""

    rowid: int
    values: tuple[Value, ...]


class _File:
    """A file read piece by piece. (A map of it would end the process at a sector that fails.)"""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY) if path.exists() else None
        self.size = os.fstat(self._file).st_size if self._file is not None else 0

    def read(self, at: int, n: int) -> bytes:
        """Return bytes; fewer at the end, none where the disk fails."""
        try:
            return os.pread(self._file, n, at) if self._file is not None else b""
        except OSError:
            return b""

    def close(self) -> None:
        """Let it go."""
        if self._file is not None:
            os.close(self._file)


class Pages:
    """The pages of a database as the last commit in its -wal leaves them."""

    def __init__(self, path: Path) -> None:
        """Open the files; `close` closes them.

        Raises:
            OSError: they cannot be opened.
        """
        self._file, wal = _File(path), _File(path.with_name(path.name + "-wal"))
        header, wal_header = self._file.read(0, FIRST_HEADER), wal.read(0, WAL_HEADER)
        self.size = _page_size(header, wal_header)
        self.usable = self.size - (header[20] if _is_whole_header(header) else 0)
        self._newer = _committed_frames(wal, wal_header, self.size)
        self.n = max([self._file.size // self.size, *self._newer])
        wal.close()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def page(self, number: int) -> bytes:
        """Return a page, counted from 1; less than a page where there is none."""
        return self._newer.get(number) or self._file.read((number - 1) * self.size, self.size)

    def free(self) -> set[int]:
        """Return the pages that hold nothing, or old rows; none where the list is damaged."""
        found: set[int] = set()
        header = self.page(1)
        trunk = _u32(header, FREE_LIST) if _is_whole_header(header) else 0
        while 0 < trunk <= self.n and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            if len(page) < self.size:
                break
            n = min(_u32(page, 4), self.usable // 4 - 2)
            found.update(struct.unpack_from(f">{n}I", page, 8))
            trunk = _u32(page, 0)
        return found


def rows(path: Path) -> Iterator[Row]:
    """Yield every whole row of every table, in the order of the pages.

    Raises:
        OSError: the file cannot be read.
    """
    pages = Pages(path)
    try:
        free = pages.free()
        for number in range(1, pages.n + 1):
            if number not in free:
                yield from _rows_of(pages, number)
    finally:
        pages.close()


def _rows_of(pages: Pages, number: int) -> Iterator[Row]:
    page = pages.page(number)
    begin = FIRST_HEADER if number == 1 else 0
    if len(page) < pages.size or page[begin] != LEAF:
        return
    (n,) = struct.unpack_from(">H", page, begin + 3)
    n = min(n, (pages.size - begin - 8) // 2)
    for cell in struct.unpack_from(f">{n}H", page, begin + 8):
        try:
            yield _row(pages, page, cell)
        except (_Torn, IndexError, struct.error, UnicodeDecodeError):
            continue


def _row(pages: Pages, page: bytes, at: int) -> Row:
    length, at = _varint(page, at)
    rowid, at = _varint(page, at)
    if not 0 < length <= MAX_PAYLOAD:
        raise _Torn
    return Row(_signed(rowid), _record(_payload(pages, page, at, length)))


def _payload(pages: Pages, page: bytes, at: int, length: int) -> bytes:
    """Return a row's bytes: what stands in its page, and what overflows into others."""
    local = _local_length(length, pages.usable)
    if at + local > pages.usable:
        raise _Torn
    parts = [page[at : at + local]]
    left = length - local
    following = _u32(page, at + local) if left else 0
    seen: set[int] = set()
    while left:
        overflow = pages.page(following) if 0 < following <= pages.n else b""
        if len(overflow) < pages.size or following in seen:
            raise _Torn
        seen.add(following)
        parts.append(overflow[4 : min(4 + left, pages.usable)])
        left -= len(parts[-1])
        following = _u32(overflow, 0)
    return b"".join(parts)


def _local_length(length: int, usable: int) -> int:
    """Return how much of a table's row stands in its own page (1.6, cell payload overflow)."""
    most = usable - 35
    if length <= most:
        return length
    least = (usable - 12) * 32 // 255 - 23
    surplus = least + (length - least) % (usable - 4)
    return surplus if surplus <= most else least


def _record(payload: bytes) -> tuple[Value, ...]:
    header, at = _varint(payload, 0)
    values: list[Value] = []
    body = header
    while at < header:
        kind, at = _varint(payload, at)
        value, body = _value(payload, kind, body)
        values.append(value)
    if at != header or body != len(payload):
        raise _Torn
    return tuple(values)


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type -> bytes"""


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    """Return the value of a serial type and where the next one begins (2.1)."""
    match kind:
        case 0:
            return None, at
        case 7:
            (real,) = struct.unpack_from(">d", payload, at)
            return float(real), at + 8
        case 8 | 9:
            return kind - 8, at
        case 10 | 11:
            raise _Torn
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    end = at + (kind - 12) // 2
    part = payload[at:end]
    return (part.decode() if kind % 2 else part), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned number of 1 to 9 bytes, and where the next one begins."""
    number = 0
    for i in range(8):
        byte = data[at + i]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + i + 1
    return number << 8 | data[at + 8], at + 9


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _u32(data: bytes, at: int) -> int:
    (number,) = struct.unpack_from(">I", data, at)
    return int(number)


def _is_whole_header(data: bytes) -> bool:
    return len(data) >= FIRST_HEADER and data[: len(MAGIC)] == MAGIC


def _is_wal(header: bytes) -> bool:
    return len(header) == WAL_HEADER and _u32(header, 0) in WAL_MAGIC


def _page_size(header: bytes, wal_header: bytes) -> int:
    """Return the bytes of a page, as the -wal or the file say; what nearly all have otherwise."""
    told = []
    if _is_wal(wal_header):
        told.append(_u32(wal_header, 8))
    if _is_whole_header(header):
        told.append(int.from_bytes(header[16:18], "big"))
    sizes = [65_536 if size == 1 else size for size in told]
    return next((s for s in sizes if 512 <= s <= 65_536 and not s & (s - 1)), USUAL_PAGE)


def _committed_frames(wal: _File, header: bytes, size: int) -> Mapping[int, bytes]:
    """Return the pages in a -wal, up to its last commit; a damaged one is left out."""
    if not _is_wal(header):
        return {}
    words = ">" if _u32(header, 0) & 1 else "<"
    previous = struct.unpack_from(">2I", header, 24)
    committed: dict[int, bytes] = {}
    begun: dict[int, bytes] = {}
    for at in range(WAL_HEADER, wal.size - FRAME_HEADER - size + 1, FRAME_HEADER + size):
        frame = wal.read(at, FRAME_HEADER + size)
        if frame[8:16] != header[16:24]:  # of an earlier round, or damaged
            break
        told = struct.unpack_from(">2I", frame, 16)
        if _checksum(frame[:8] + frame[FRAME_HEADER:], previous, words) == told:
            begun[_u32(frame, 0)] = frame[FRAME_HEADER:]
        previous = told
        if _u32(frame, 4):
            committed |= begun
            begun = {}
    return committed


def _checksum(data: bytes, start: tuple[int, ...], words: str) -> tuple[int, int]:
    first, second = start
    values = struct.unpack(f"{words}{len(data) // 4}I", data)
    for x, y in zip(values[::2], values[1::2], strict=True):
        first = (first + x + second) & 0xFFFFFFFF
        second = (second + y + first) & 0xFFFFFFFF
    return first, second
