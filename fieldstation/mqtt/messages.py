"""The wire's messages: topics, and values to JSON and back. Pure; `docs/wire.md` is its page.

    fieldstation/<station>/status      retained      online, or offline by the last will
                          /detection   QoS 1         one event
                          /logged      QoS 1         receipts of a logger
                          /coverage    QoS 1         what was heard and what was lost
                          /health      retained      every minute, QoS 0, never queued
                          /summary     retained      a local day
                          /image       QoS 1         an event's picture, generated
                          /image/png   retained      the newest picture, for display only

What comes from the wire is checked here and trusted everywhere else: size, nesting, text and
numbers by `_parse`, fields by the JSON Schemas beside this file. Whatever fails is `Unfit`.
The station's name is the topic's, never the payload's: a broker's access list guards topics.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import fastjsonschema
import numpy as np

from fieldstation.clock import US_PER_S, format_instant, parse_instant
from fieldstation.records import Detection, Health, Hearing, Image, Interval, Message, Picture

ROOT = "fieldstation"
KINDS = ("status", "detection", "logged", "coverage", "health", "summary", "image")
SCHEMAS = Path(__file__).parent / "schemas"
VERSION = 1
CALL, SPECIES = "call", "species"
"""What a picture was painted from"""
MAX_PAYLOAD = 256 * 1024
"""Bytes; the largest of ours, a picture, has 66 kB"""
MAX_DEPTH = 8
MAX_INTERVALS = 500
MAX_IDS = 500
MAX_PNG = 48 * 1024
"""Bytes of a picture; as base64 64 kB"""
MAX_LEVEL_BYTES = 64
MAX_NAME, MAX_SOURCE, MAX_REASON = 200, 1_000, 500
EARLIEST_AT = parse_instant("0001-01-03T00:00:00Z")
LATEST_AT = parse_instant("9999-12-29T00:00:00Z")
"""Python's first and last dates, and room for a time zone: whoever reads the log derives local
dates, and an instant without one would end the reader"""
INTEGER_DIGITS = 19
"""A signed 64-bit integer, the widest that both databases hold, has no more"""

_NOT_IN_LEVEL = re.compile(
    r"[\s/+#\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+"
)
_NOT_IN_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""PostgreSQL refuses NUL, no database encodes lone surrogates, terminals obey the rest"""
_ID = re.compile(r"[0-9A-Za-z._:-]{1,100}")


class Unfit(ValueError):
    """A message does not fit the wire; the text is the reason that the quarantine keeps."""


@dataclass(frozen=True, slots=True)
class Topics:
    """One station's topics."""

    station: str
    """Name for people; its topic level is `level`"""

    @property
    def level(self) -> str:
        """Return the name as a topic level."""
        return topic_level(self.station)

    def of(self, kind: str) -> str:
        """Return the station's topic of one of `KINDS`."""
        return f"{ROOT}/{self.level}/{kind}"

    @property
    def status(self) -> str:
        """Return where online and offline are told."""
        return self.of("status")

    @property
    def detection(self) -> str:
        """Return where events are told."""
        return self.of("detection")

    @property
    def logged(self) -> str:
        """Return where loggers give receipts."""
        return self.of("logged")

    @property
    def coverage(self) -> str:
        """Return where hearing and losses are told."""
        return self.of("coverage")

    @property
    def health(self) -> str:
        """Return where the station's state is told."""
        return self.of("health")

    @property
    def summary(self) -> str:
        """Return where the day is summed up."""
        return self.of("summary")

    @property
    def image(self) -> str:
        """Return where pictures are told."""
        return self.of("image")

    @property
    def image_png(self) -> str:
        """Return where the newest picture is kept, for display."""
        return self.of("image/png")


def every_station(kind: str) -> str:
    """Return the filter of one kind of message of every station."""
    return f"{ROOT}/+/{kind}"


def topic_level(name: str) -> str:
    """Return a name as one topic level: no separators, wildcards, blanks or control characters.

    The same for its own result, so a reader can tell whether a level was made here. A name of
    which nothing is left becomes `station`.
    """
    level = _NOT_IN_LEVEL.sub("-", unicodedata.normalize("NFC", name)).strip("-")
    cut = level.encode()[:MAX_LEVEL_BYTES].decode(errors="ignore").strip("-")
    return cut or "station"


def split_topic(topic: str) -> tuple[str, str]:
    """Return station and kind.

    Raises:
        Unfit: not a topic of ours.
    """
    root, _, rest = topic.partition("/")
    station, _, kind = rest.partition("/")
    if root != ROOT or kind not in KINDS:
        raise Unfit(f"topic is {_shown(topic)}; fieldstation/<station>/<{'|'.join(KINDS)}>")
    if station != topic_level(station):
        raise Unfit(f"topic names station {_shown(station)}; as a level {topic_level(station)!r}")
    return station, kind


# Values that travel only here; what other rooms keep is in fieldstation.records.


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that a logger keeps in quarantine instead of the log."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a logger has committed of one station's messages."""

    station: str
    logger_id: str
    logged_at: int
    ids: tuple[str, ...]
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """Closed intervals of one station, in order of time."""

    station: str
    station_key: str
    message_id: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Whether a station is there. `at` and `version` only when online."""

    station: str
    station_key: str
    online: bool
    at: int | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class SpeciesCount:
    """One species on one day."""

    scientific_name: str
    common_name: str
    n_events: int
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One local day of one station."""

    station: str
    station_key: str
    message_id: str
    date: str
    """Local date, 2026-05-01"""
    timezone: str
    species: tuple[SpeciesCount, ...]
    heard_s: float = 0.0
    lost_s: float = 0.0


def detection_message(d: Detection) -> Message:
    """Return the message of an event.

    Texts are made fit (control characters replaced, length cut), so that no odd file name keeps
    an event from the log; an embedding that float16 cannot hold is left out.
    """
    place = {"name": _fit(d.place, MAX_NAME), "latitude": d.latitude, "longitude": d.longitude}
    fields = {
        "event_id": d.event_id,
        "station_key": d.station_key,
        "sequence": d.sequence,
        "started_at": format_instant(d.started_at),
        "ended_at": format_instant(d.ended_at),
        "duration_s": (d.ended_at - d.started_at) / US_PER_S,
        "timezone": d.timezone,
        "scientific_name": _fit(d.scientific_name, MAX_NAME),
        "common_name": _fit(d.common_name, MAX_NAME),
        "probability": d.probability,
        "threshold": d.threshold,
        "encoder_id": d.encoder_id,
        "n_windows": d.n_windows,
        "place": _present(place) or None,
        "source": _fit(d.source, MAX_SOURCE),
        "clip": d.clip,
        "embedding": _encode_embedding(d.embedding),
    }
    return _message("detection", "detection", d.station, fields)


def read_detection(topic: str, payload: bytes) -> Detection:
    """Return the event that a message tells.

    Raises:
        Unfit: it does not fit.
    """
    station, fields = _read(topic, payload, "detection", "detection")
    place = fields.get("place", {})
    started_at, ended_at = _instant(fields, "started_at"), _instant(fields, "ended_at")
    if ended_at < started_at:
        raise Unfit(f"ended_at {fields['ended_at']} is before started_at {fields['started_at']}")
    return Detection(
        event_id=fields["event_id"],
        station=station,
        station_key=fields["station_key"],
        sequence=int(fields["sequence"]),
        started_at=started_at,
        ended_at=ended_at,
        timezone=_zone(fields["timezone"]),
        scientific_name=fields["scientific_name"],
        common_name=fields["common_name"],
        probability=float(fields["probability"]),
        threshold=float(fields["threshold"]),
        encoder_id=fields["encoder_id"],
        n_windows=int(fields["n_windows"]),
        latitude=_optional_float(place, "latitude"),
        longitude=_optional_float(place, "longitude"),
        place=place.get("name"),
        clip=_clip(fields.get("clip")),
        source=fields.get("source"),
        embedding=_decode_embedding(fields.get("embedding")),
    )


def receipt_message(receipt: Receipt) -> Message:
    """Return a logger's receipt; at most `MAX_IDS` ids of either sort.

    Its reasons are cut to what fits: a receipt that no station reads has all of it sent for ever.
    """
    length = MAX_REASON
    while len((message := _receipt(receipt, length)).payload) > MAX_PAYLOAD and length:
        length //= 2
    return message


def _receipt(receipt: Receipt, longest_reason: int) -> Message:
    fields = {
        "logger_id": receipt.logger_id,
        "logged_at": format_instant(receipt.logged_at),
        "ids": list(receipt.ids),
        "refused": [
            {"id": refusal.id, "reason": _fit(refusal.reason, longest_reason)}
            for refusal in receipt.refused
        ],
    }
    return _message("logged", "receipt", receipt.station, fields)


def read_receipt(topic: str, payload: bytes) -> Receipt:
    """Return what a logger confirms.

    Raises:
        Unfit: it does not fit.
    """
    station, fields = _read(topic, payload, "logged", "receipt")
    return Receipt(
        station=station,
        logger_id=fields["logger_id"],
        logged_at=_instant(fields, "logged_at"),
        ids=tuple(fields["ids"]),
        refused=tuple(Refusal(entry["id"], entry["reason"]) for entry in fields["refused"]),
    )


def coverage_message(coverage: Coverage) -> Message:
    """Return the message of closed intervals.

    Raises:
        ValueError: more than `MAX_INTERVALS`.
    """
    if len(coverage.intervals) > MAX_INTERVALS:
        raise ValueError(f"{len(coverage.intervals)} intervals; {MAX_INTERVALS} to a message")
    fields = {
        "message_id": coverage.message_id,
        "station_key": coverage.station_key,
        "intervals": [_interval_fields(interval) for interval in coverage.intervals],
    }
    return _message("coverage", "coverage", coverage.station, fields)


def read_coverage(topic: str, payload: bytes) -> Coverage:
    """Return the intervals that a message tells.

    Raises:
        Unfit: it does not fit.
    """
    station, fields = _read(topic, payload, "coverage", "coverage")
    return Coverage(
        station=station,
        station_key=fields["station_key"],
        message_id=fields["message_id"],
        intervals=tuple(_interval(entry) for entry in fields["intervals"]),
    )


def status_message(status: Status) -> Message:
    """Return the retained message that a station is there, or not."""
    fields = {
        "station_key": status.station_key,
        "state": "online" if status.online else "offline",
        "at": None if status.at is None else format_instant(status.at),
        "version": status.version,
    }
    return _message("status", "status", status.station, fields, retain=True)


def read_status(topic: str, payload: bytes) -> Status:
    """Return whether a station is there.

    Raises:
        Unfit: it does not fit.
    """
    station, fields = _read(topic, payload, "status", "status")
    return Status(
        station=station,
        station_key=fields["station_key"],
        online=fields["state"] == "online",
        at=_instant(fields, "at") if "at" in fields else None,
        version=fields.get("version"),
    )


def health_message(station: str, station_key: str, health: Health) -> Message:
    """Return the message of a station's state; a value that is not finite becomes null.

    The newest is kept by the broker, so that who asks need not wait for the next.
    """
    fields = {
        "station_key": station_key,
        "at": format_instant(health.at),
        "values": _finite(health.values),
    }
    return _message("health", "health", station, fields, retain=True, qos=0)


def read_health(topic: str, payload: bytes) -> Health:
    """Return a station's state; whose it is, `split_topic` says.

    Raises:
        Unfit: it does not fit.
    """
    _, fields = _read(topic, payload, "health", "health")
    return Health(at=_instant(fields, "at"), values=fields["values"])


def summary_message(summary: Summary) -> Message:
    """Return the retained message of a day."""
    fields = {
        "message_id": summary.message_id,
        "station_key": summary.station_key,
        "date": summary.date,
        "timezone": summary.timezone,
        "heard_s": summary.heard_s,
        "lost_s": summary.lost_s,
        "species": [
            {
                "scientific_name": _fit(count.scientific_name, MAX_NAME),
                "common_name": _fit(count.common_name, MAX_NAME),
                "n_events": count.n_events,
                "first_at": format_instant(count.first_at),
                "last_at": format_instant(count.last_at),
            }
            for count in summary.species
        ],
    }
    return _message("summary", "summary", summary.station, fields, retain=True)


def read_summary(topic: str, payload: bytes) -> Summary:
    """Return a day.

    Raises:
        Unfit: it does not fit.
    """
    station, fields = _read(topic, payload, "summary", "summary")
    return Summary(
        station=station,
        station_key=fields["station_key"],
        message_id=fields["message_id"],
        date=_date(fields["date"]),
        timezone=_zone(fields["timezone"]),
        species=tuple(_count(entry) for entry in fields["species"]),
        heard_s=float(fields.get("heard_s", 0.0)),
        lost_s=float(fields.get("lost_s", 0.0)),
    )


def image_message(picture: Picture, png: bytes) -> Message:
    """Return the message of a picture, with the picture in it.

    Raises:
        ValueError: it has more than `MAX_PNG` bytes.
    """
    if len(png) > MAX_PNG:
        raise ValueError(f"a picture of {len(png)} bytes; {MAX_PNG} to a message")
    image = picture.image
    fields = {
        "event_id": image.event_id,
        "generator_id": image.generator_id,
        "seed": image.seed,
        "painted_from": CALL if image.is_of_call else SPECIES,
        "started_at": format_instant(picture.started_at),
        "timezone": picture.timezone,
        "scientific_name": _fit(picture.scientific_name, MAX_NAME),
        "common_name": _fit(picture.common_name, MAX_NAME),
        "probability": picture.probability,
        "made_at": format_instant(image.made_at),
        "width": image.width,
        "height": image.height,
        "sha256": image.sha256,
        "png": base64.b64encode(png).decode(),
    }
    return _message("image", "image", image.station, fields)


def display_message(station: str, png: bytes) -> Message:
    """Return the retained message of the newest picture: a PNG, for whoever shows it."""
    return Message(Topics(station).image_png, png, retain=True)


def read_image(topic: str, payload: bytes) -> tuple[Picture, bytes]:
    """Return the picture that a message brings, and its PNG, whose inside is not looked at.

    Raises:
        Unfit: it does not fit, or the PNG is not the one that the message tells of.
    """
    station, fields = _read(topic, payload, "image", "image")
    png = _png(fields["png"], fields["sha256"])
    image = Image(
        event_id=fields["event_id"],
        station=station,
        generator_id=fields["generator_id"],
        seed=int(fields["seed"]),
        is_of_call=fields["painted_from"] == CALL,
        file=None,
        width=int(fields["width"]),
        height=int(fields["height"]),
        n_bytes=len(png),
        sha256=fields["sha256"],
        made_at=_instant(fields, "made_at"),
    )
    picture = Picture(
        image=image,
        scientific_name=fields["scientific_name"],
        common_name=fields["common_name"],
        probability=float(fields["probability"]),
        started_at=_instant(fields, "started_at"),
        timezone=_zone(fields["timezone"]),
    )
    return picture, png


def legible_id(payload: bytes) -> str | None:
    """Return the id that an unfit message still shows, so that its sender can be told; or None."""
    try:
        fields = _parse(payload)
    except Unfit:
        return None
    found = fields.get("event_id", fields.get("message_id"))
    return found if isinstance(found, str) and _ID.fullmatch(found) else None


def _message(
    kind: str,
    schema: str,
    station: str,
    fields: Mapping[str, Any],
    retain: bool = False,
    qos: int = 1,
) -> Message:
    head = {"schema": _schema_name(schema), "station": _fit(station, MAX_NAME)}
    text = json.dumps(
        head | _present(fields), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return Message(Topics(station).of(kind), text.encode(), retain, qos)


def _read(topic: str, payload: bytes, kind: str, schema: str) -> tuple[str, dict[str, Any]]:
    station, found = split_topic(topic)
    if found != kind:
        raise Unfit(f"topic is {_shown(topic)}; a {schema} is told on .../{kind}")
    fields = _parse(payload)
    if fields.get("schema") != _schema_name(schema):
        raise Unfit(
            f"schema is {_shown(fields.get('schema'))}; this fieldstation reads "
            f"{_schema_name(schema)}: update the older of the two"
        )
    try:
        _validator(schema)(fields)
    except fastjsonschema.JsonSchemaValueException as error:
        raise Unfit(error.message.replace("data", schema, 1)[:MAX_REASON]) from None
    return station, fields


def _schema_name(schema: str) -> str:
    return f"{ROOT}.{schema}/{VERSION}"


@cache
def _validator(schema: str) -> Callable[[dict[str, Any]], Any]:
    """Compile a schema at its first use: `--help` should not wait for it."""
    definition = json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8"))
    compiled: Callable[[dict[str, Any]], Any] = fastjsonschema.compile(definition)
    return compiled


def _parse(payload: bytes) -> dict[str, Any]:
    """Return a JSON object whose every number and text a database can hold."""
    if len(payload) > MAX_PAYLOAD:
        raise Unfit(f"{len(payload)} bytes; at most {MAX_PAYLOAD}")
    try:
        text = payload.decode()
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Unfit(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Unfit(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Unfit(f"nested deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict):
        raise Unfit(f"a JSON {type(value).__name__}; it must be an object")
    if not _is_plain(text):
        _check_inside(value)
    return value


def _is_plain(text: str) -> bool:
    """Return whether a JSON text shows by itself that `_check_inside` will find nothing.

    It does for nearly every message, and that look inside took a third of its reading.
    """
    n_brackets = text.count("{") + text.count("[")
    return n_brackets < MAX_DEPTH and "\\" not in text and not _NOT_IN_TEXT.search(text)


def _refuse_constant(text: str) -> float:
    raise Unfit(f"{text} is no number of JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Unfit(f"number {_shown(text)} is beyond a double")
    return number


def _parse_integer(text: str) -> int:
    if len(text.lstrip("-")) > INTEGER_DIGITS:
        raise Unfit(f"integer {_shown(text)} has more than {INTEGER_DIGITS} digits")
    return int(text)


def _parse_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unfit("an object names a field twice")  # readers would differ on which counts
    return found


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_float=_parse_float,
    parse_int=_parse_integer,
    object_pairs_hook=_parse_object,
)


def _check_inside(value: dict[str, Any]) -> None:
    """Refuse deep nesting and texts that no database takes, without recursing."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Unfit(f"nested deeper than {MAX_DEPTH}")
        if isinstance(item, str) and _NOT_IN_TEXT.search(item):
            raise Unfit(f"text {_shown(item)} holds a control character or half a character")
        if isinstance(item, dict):
            waiting += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list):
            waiting += [(inner, depth + 1) for inner in item]


def _shown(value: object) -> str:
    """Return a value as ASCII, short enough for a log line."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _fit(text: str | None, length: int) -> str | None:
    return None if text is None else _NOT_IN_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)[:length]


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return _fit(value, MAX_SOURCE) if isinstance(value, str) else value


def _instant(fields: Mapping[str, Any], name: str) -> int:
    try:
        at = parse_instant(fields[name])
    except ValueError:
        raise Unfit(f"{name} is {fields[name]!r}; there is no such instant") from None
    if not EARLIEST_AT <= at <= LATEST_AT:
        raise Unfit(f"{name} is {fields[name]!r}; not every time zone has a date for it")
    return at


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise Unfit(f"date is {text!r}; there is no such day") from None


def _zone(name: str) -> str:
    """Check a zone's name: the log's local dates are derived with it."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: `Europe` is a folder
        raise Unfit(f"timezone is {name!r}; this machine knows no such zone") from None
    return name


def _optional_float(fields: Mapping[str, Any], name: str) -> float | None:
    return None if name not in fields else float(fields[name])


def _clip(name: str | None) -> str | None:
    if name is not None and {".", ".."} & set(name.split("/")):
        raise Unfit(f"clip is {_shown(name)}; it must stay below the clip folder")
    return name


def _encode_embedding(embedding: bytes | None) -> str | None:
    if embedding is None or not np.isfinite(np.frombuffer(embedding, "<f2")).all():
        return None
    return base64.b64encode(embedding).decode()


def _decode_embedding(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        embedding = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Unfit("embedding is not base64") from None
    if len(embedding) % 2 or not np.isfinite(np.frombuffer(embedding, "<f2")).all():
        raise Unfit(f"embedding of {len(embedding)} bytes is no row of finite float16")
    return embedding


def _png(text: str, sha256: str) -> bytes:
    try:
        png = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Unfit("png is not base64") from None
    if hashlib.sha256(png).hexdigest() != sha256:
        raise Unfit(f"png of {len(png)} bytes is not the one of sha256 {sha256}")
    return png


def _interval_fields(interval: Interval) -> dict[str, Any]:
    return _present(
        {
            "run_id": interval.run_id,
            "started_at": format_instant(interval.started_at),
            "duration_s": interval.duration_s,
            "state": interval.state.value,
            "cause": _fit(interval.cause, MAX_NAME // 2) or None,
        }
    )


def _interval(fields: Mapping[str, Any]) -> Interval:
    state = Hearing(fields["state"])
    if fields["duration_s"] < 0 and state is not Hearing.CLOCK_STEP:
        raise Unfit(f"duration_s is {fields['duration_s']}; only a clock step is negative")
    started_at = _instant(fields, "started_at")
    if started_at + round(fields["duration_s"] * US_PER_S) > LATEST_AT:
        raise Unfit(f"duration_s is {fields['duration_s']}; the interval has no end")
    return Interval(
        run_id=fields["run_id"],
        started_at=started_at,
        duration_s=float(fields["duration_s"]),
        state=state,
        cause=fields.get("cause", ""),
    )


def _count(fields: Mapping[str, Any]) -> SpeciesCount:
    return SpeciesCount(
        scientific_name=fields["scientific_name"],
        common_name=fields["common_name"],
        n_events=int(fields["n_events"]),
        first_at=_instant(fields, "first_at"),
        last_at=_instant(fields, "last_at"),
    )
