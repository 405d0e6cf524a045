"""What can still be read of a damaged SQLite file, page by page.

SQLite stops at the first page that is not as it should be, and without its first page reads
nothing at all. But every row stands in a leaf page that says by itself where it begins, so the
pages are looked at one by one, and what is no leaf, or a row that does not add up, is passed over.

Source: sqlite.org/fileformat2.html: 1.3 (header), 1.6 (b-tree pages), 2.1 (records), 4.1 (-wal).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

Value = int | float | str | bytes | None

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


class Pages:
    """The pages of a database as the last commit in its -wal leaves them."""

    def __init__(self, path: Path) -> None:
        """Map a file; it is closed by `close`.

        Raises:
            OSError: it cannot be read.
        """
        self._open = ExitStack()
        self._file = self._map(path)
        self._wal = self._map(path.with_name(path.name + "-wal"))
        self.size = _page_size(self._file, self._wal)
        reserved = self._file[20] if len(self._file) > 20 and _is_whole_header(self._file) else 0
        self.usable = self.size - reserved
        self._newer = _committed_frames(self._wal, self.size) if self._wal else {}
        self.n = max([len(self._file) // self.size, *self._newer])

    def close(self) -> None:
        """Let the files go."""
        self._open.close()

    def page(self, number: int) -> bytes:
        """Return a page, counted from 1; empty where there is none."""
        if number in self._newer:
            return self._newer[number]
        return bytes(self._file[(number - 1) * self.size : number * self.size])

    def free(self) -> set[int]:
        """Return the pages that hold nothing, or old rows; none where the list is damaged."""
        found: set[int] = set()
        header = self.page(1)
        trunk = _u32(header, FREE_LIST) if _is_whole_header(header) else 0
        while 0 < trunk <= self.n and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            n = min(_u32(page, 4), self.usable // 4 - 2) if len(page) == self.size else 0
            found.update(struct.unpack_from(f">{n}I", page, 8))
            trunk = _u32(page, 0) if n or len(page) == self.size else 0
        return found

    def _map(self, path: Path) -> mmap.mmap | bytes:
        if not path.exists() or not path.stat().st_size:
            return b""
        file = self._open.enter_context(path.open("rb"))
        return self._open.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


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


def _u32(data: bytes | mmap.mmap, at: int) -> int:
    (number,) = struct.unpack_from(">I", data, at)
    return int(number)


def _is_whole_header(data: bytes | mmap.mmap) -> bool:
    return len(data) >= FIRST_HEADER and data[:16] == b"SQLite format 3\0"


def _page_size(file: bytes | mmap.mmap, wal: bytes | mmap.mmap) -> int:
    """Return the bytes of a page, as the -wal or the file say; what nearly all have otherwise."""
    told = []
    if len(wal) >= WAL_HEADER and _u32(wal, 0) in WAL_MAGIC:
        told.append(_u32(wal, 8))
    if _is_whole_header(file):
        told.append(int.from_bytes(file[16:18], "big"))
    sizes = [65_536 if size == 1 else size for size in told]
    return next((s for s in sizes if 512 <= s <= 65_536 and not s & (s - 1)), USUAL_PAGE)


def _committed_frames(wal: bytes | mmap.mmap, size: int) -> Mapping[int, bytes]:
    """Return the pages in a -wal, up to its last commit; a damaged one is left out."""
    if len(wal) < WAL_HEADER or _u32(wal, 0) not in WAL_MAGIC:
        return {}
    words = ">" if _u32(wal, 0) & 1 else "<"
    salts, previous = wal[16:24], struct.unpack_from(">2I", wal, 24)
    committed: dict[int, bytes] = {}
    begun: dict[int, bytes] = {}
    for at in range(WAL_HEADER, len(wal) - FRAME_HEADER - size + 1, FRAME_HEADER + size):
        if wal[at + 8 : at + 16] != salts:
            break
        page = bytes(wal[at + FRAME_HEADER : at + FRAME_HEADER + size])
        told = struct.unpack_from(">2I", wal, at + 16)
        if _checksum(bytes(wal[at : at + 8]) + page, previous, words) == told:
            begun[_u32(wal, at)] = page
        previous = told
        if _u32(wal, at + 4):
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
