"""What somebody with bad intentions, or a bad day, may publish below `fieldstation/`.

Every message comes from a number: the same seed makes the same messages. Half are bytes that were
bent, half are JSON whose fields were replaced, doubled, nested, left out, or taken from another.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.mqtt.wire_examples import EXAMPLES

KINDS = tuple(EXAMPLES)
LARGEST = 10 * 1024 * 1024
LARGE_EVERY = 2_000
"""One of so many is of the largest size"""
STATIONS = ("garden", "hedge", "north-wood", "Wäldchen")
ODD_STATIONS = (
    "", ".", "..", " ", "a b", "$SYS", "%s%n", "{0}", "-", "x" * 64, "x" * 65, "x" * 5_000,
    "a\u0308", "\u202egarden", "\u2028", "garden ", "Garden", "gard\u0435n", "\ufeffgarden",
    "😀" * 20, "../../etc", "'; DROP TABLE detections; --", "\\", '"', "garden/../hedge",
    "\ufdd0", "\ue000",
)  # fmt: skip
ODD_TOPICS = (
    "fieldstation", "fieldstation/", "fieldstation//detection",
    "/fieldstation/garden/detection", "fieldstation/garden/detection/",
    "fieldstation/garden/sub/detection", "Fieldstation/a/detection",
    "fieldstation/garden/Detection", "fieldstation/garden/image/jpg", "x/garden/detection",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\x1b[2J", "\n", "\u202e", "\ud800", "\udfff", "x" * 201, "x" * 100_000,
    "null", "a\u0300" * 100, "\ufffe", "{}", "%s%s%n", "'; DROP TABLE detections; --",
    "../../../etc/passwd", "/etc/localtime", "Europe", "Etc/GMT+99", "UTC\0", "right/UTC",
    "posixrules", "localtime", "..", "2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z", "2026-05-01T24:00:00Z", "9999-12-31T23:59:59.999999Z",
    "2026-05-01T04:12:60Z", "2026-05-01T04:12:07+25:00", "infinity", "2026-05-01",
    "20260501T041207Z", "2026-05-01T04:12:07.1234567Z", "2026-W18-5T04:12:07Z",
    "00000000-0000-0000-0000-000000000000", "019DE1C6-A2D2-7C3E-8A51-0D6F6C1F5B11",
    "019de1c6-a2d2-7c3e-8a51-0d6f6c1f5b11\n", "{019de1c6a2d27c3e8a510d6f6c1f5b11}",
    "fieldstation.", "fieldstation.detection/2", "fieldstation.detection/1 ",
    "fieldstation.coverage/1", "١٢٣", "TRUE", "a.flac", "2026-05-01/../../x.flac", "/x.flac",
    "2026-05-01/a.flac\0", "AAAA", "!!!!", "AAA=", "iVBORw0KGgo=", "R0lGODlhAQABAAAAACw=",
    "/9j/4AAQ", "PHN2Zz4=", "AHwAfAB8AHw=", "online", "lost",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "-0.0", "1", "-1", "0.5", "1.0000001", "-1e-300", "1e-400", "1e308", "1e309",
    "-1e309", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "2147483648", "1e19", "1" + "0" * 400, "0." + "1" * 5_000, "NaN", "Infinity", "-Infinity",
    "1E+2", "01", "1.", ".5", "+1", "0x10", "1_000", "true", "false", "null", "4294967296",
    "1.5e3", "9007199254740993", "2e0",
)  # fmt: skip


ODD_BYTES = (b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b'"', b"}")


@dataclass(frozen=True, slots=True)
class Raw:
    """A number as it is to stand in the JSON, whether that allows it or not."""

    text: str


def messages(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Yield n topics and payloads."""
    chance = random.Random(seed)
    for number in range(n):
        kind = chance.choice(KINDS)
        if number % LARGE_EVERY == LARGE_EVERY - 1:
            yield topic(chance, kind), large(chance, kind)
        elif kind == "image" and chance.random() < 0.5:
            yield topic(chance, kind), with_picture(chance)
        elif chance.random() < 0.5:
            yield topic(chance, kind), bend_bytes(chance, EXAMPLES[kind].payload)
        else:
            yield topic(chance, kind), bend_fields(chance, kind)


def topic(chance: random.Random, kind: str) -> str:
    """Return a topic that mostly fits."""
    roll = chance.random()
    if roll < 0.03:
        return chance.choice(ODD_TOPICS)
    station = chance.choice(ODD_STATIONS if roll < 0.15 else STATIONS)
    told = chance.choice(KINDS) if chance.random() < 0.1 else kind
    return f"fieldstation/{station}/{told}"


def large(chance: random.Random, kind: str) -> bytes:
    """Return 10 MB: of one byte, of one text, or of brackets."""
    filling = chance.choice([b"\0", b"[", b" ", b'{"a":', b"9", b"\xff"])
    body = filling * (LARGEST // len(filling))
    return chance.choice([body, EXAMPLES[kind].payload[:-1] + b',"x":"' + body + b'"}'])


def bend_bytes(chance: random.Random, payload: bytes) -> bytes:
    """Return a payload after some accidents."""
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        payload = chance.choice(ACCIDENTS)(chance, payload)
    return payload


def _flip(chance: random.Random, payload: bytes) -> bytes:
    at = chance.randrange(max(1, len(payload)))
    return payload[:at] + bytes([chance.randrange(256)]) + payload[at + 1 :]


def _cut(chance: random.Random, payload: bytes) -> bytes:
    return payload[: chance.randrange(len(payload) + 1)]


def _double(chance: random.Random, payload: bytes) -> bytes:
    begin, end = sorted(chance.randrange(len(payload) + 1) for _ in range(2))
    return payload[:end] + payload[begin:]


def _insert(chance: random.Random, payload: bytes) -> bytes:
    at = chance.randrange(len(payload) + 1)
    odd = chance.choice(
        [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b'"', b"}"]
    )
    return payload[:at] + odd + payload[at:]


def _random(chance: random.Random, _: bytes) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 16, 1_000)))


def _recode(chance: random.Random, payload: bytes) -> bytes:
    code = chance.choice(["utf-16", "utf-32", "latin-1", "utf-7"])
    return payload.decode(errors="replace").encode(code, errors="replace")


def _digits(chance: random.Random, payload: bytes) -> bytes:
    number = chance.choice(NUMBERS).encode()
    return re.sub(rb"\d+", number, payload, count=chance.choice((1, 3, 0)))


ACCIDENTS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _cut, _double, _insert, _random, _recode, _digits,
)  # fmt: skip


def bend_fields(chance: random.Random, kind: str) -> bytes:
    """Return a message of which some fields are odd."""
    fields: dict[str, Any] = json.loads(EXAMPLES[kind].payload)
    if chance.random() < 0.3:  # another sound under the same id, or the same again
        fields |= {"probability": chance.random(), "sequence": chance.randrange(5)}
    if chance.random() < 0.7 and "event_id" in fields:
        fields["event_id"] = f"00000000-0000-4000-8000-{chance.randrange(500):012x}"
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        _bend(chance, _some_object(chance, fields))
    text = _written(fields)
    if chance.random() < 0.05:  # a field twice
        text = text[:-1] + f',"{chance.choice(list(fields) or ["x"])}":{_written(odd(chance))}}}'
    return text.encode("utf-8", "surrogatepass")


def with_picture(chance: random.Random) -> bytes:
    """Return an image message that is right but for the picture in it."""
    fields = json.loads(EXAMPLES["image"].payload)
    png = chance.choice(PICTURES)(chance, base64.b64decode(fields["png"]))
    fields |= {
        "png": base64.b64encode(png).decode(),
        "sha256": hashlib.sha256(png).hexdigest(),
        "event_id": f"00000000-0000-4000-8000-{chance.randrange(500):012x}",
    }
    return json.dumps(fields).encode()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, colour: bytes, pixels: bytes) -> bytes:
    """Return a PNG of 8 bits; `colour` is its type and the three bytes after it."""
    header = struct.pack(">II", width, height) + b"\x08" + colour
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + parts + _chunk(b"IEND", b"")


def _bomb(chance: random.Random, _: bytes) -> bytes:
    """Return a small file that says it is large, or is: 40 MB of zeros in 40 kB."""
    return _large_png(chance.choice((1, 128, 6_000, 2**31 - 1)))


@cache
def _large_png(side: int) -> bytes:
    return _png(side, side, b"\x02\0\0\0", bytes(40_000_000 if side > 128 else 60_000))


def _odd_picture(chance: random.Random, _: bytes) -> bytes:
    """Return a PNG of a sort that nobody paints here: no size, interlaced, a palette, alpha."""
    side = chance.choice((0, 1, 64))
    colour = bytes([chance.choice((0, 2, 3, 4, 6, 7)), *chance.choices((0, 0, 1), k=3)])
    return _png(side, side, colour, chance.randbytes(side * (3 * side + 1)))


PICTURES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _cut, _double, _insert, _random, _bomb, _odd_picture,
)  # fmt: skip


def _some_object(chance: random.Random, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the object or one inside it."""
    inner = [value for value in fields.values() if isinstance(value, dict)]
    for value in fields.values():
        if isinstance(value, list):
            inner += [entry for entry in value if isinstance(entry, dict)]
    return chance.choice(inner) if inner and chance.random() < 0.4 else fields


def _bend(chance: random.Random, fields: dict[str, Any]) -> None:
    name = chance.choice([*fields, "x"])
    match chance.randrange(5):
        case 0:
            fields.pop(name, None)
        case 1:
            fields[chance.choice(TEXTS)] = odd(chance)
        case 2:
            other = json.loads(EXAMPLES[chance.choice(KINDS)].payload)
            fields[name] = other.get(name, chance.choice(list(other.values())))
        case _:
            fields[name] = odd(chance)


def odd(chance: random.Random, depth: int = 0) -> Any:
    """Return a value that somebody did not think of."""
    roll = chance.random()
    if roll < 0.4:
        return chance.choice(TEXTS)
    if roll < 0.8 or depth > 1:
        return Raw(chance.choice(NUMBERS))
    if roll < 0.85:
        n = chance.choice((9, 100, 2_000))
        return Raw('{"a":' * n + "1" + "}" * n)
    if roll < 0.9:
        return Raw("[" * 5_000 + "]" * 5_000)
    if roll < 0.95:
        return [odd(chance, depth + 2) for _ in range(chance.choice((0, 1, 3, 600)))]
    return {chance.choice(TEXTS): odd(chance, depth + 1) for _ in range(3)}


def _written(value: Any) -> str:
    """Return JSON, in which `Raw` stands as it is."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
