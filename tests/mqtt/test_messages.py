"""The wire in both directions, and everything that does not belong on it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.mqtt import messages
from fieldstation.mqtt.messages import (
    Coverage,
    Receipt,
    Refusal,
    SpeciesCount,
    Status,
    Summary,
    Topics,
    Unfit,
    topic_level,
)
from fieldstation.records import Detection, Health, Hearing, Interval
from tests.mqtt.fakes import KEY, detection
from tests.mqtt.wire_examples import EXAMPLES, ONE_PIXEL, PICTURE

TOPIC = "fieldstation/garden/detection"
READERS: dict[str, Callable[[str, bytes], object]] = {
    "detection": messages.read_detection,
    "logged": messages.read_receipt,
    "coverage": messages.read_coverage,
    "status": messages.read_status,
    "health": messages.read_health,
    "summary": messages.read_summary,
    "image": messages.read_image,
}

instants = st.integers(0, messages.LATEST_AT)
ids = st.text("0123456789abcdef-_.:", min_size=1, max_size=64)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
stations = texts.map(topic_level)
probabilities = st.floats(0, 1)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Asia/Kolkata"])
embeddings = st.lists(st.floats(-6e4, 6e4), max_size=8).map(
    lambda values: np.array(values, "<f2").tobytes()
)


@st.composite
def detections(draw: st.DrawFn) -> Detection:
    """Any detection that a station may tell."""
    first, last = sorted((draw(instants), draw(instants)))
    return Detection(
        event_id=str(draw(st.uuids())),
        station=draw(stations),
        station_key=draw(ids),
        sequence=draw(st.integers(0, 2**63 - 1)),
        started_at=first,
        ended_at=last,
        timezone=draw(zones),
        scientific_name=draw(texts),
        common_name=draw(texts),
        probability=draw(probabilities),
        threshold=draw(probabilities),
        encoder_id=draw(ids),
        n_windows=draw(st.integers(1, 1_000_000)),
        latitude=draw(st.none() | st.floats(-90, 90)),
        longitude=draw(st.none() | st.floats(-180, 180)),
        place=draw(st.none() | texts),
        clip=draw(st.none() | st.sampled_from(["a.flac", "2026/05/a b.flac"])),
        source=draw(st.none() | texts),
        embedding=draw(st.none() | embeddings),
    )


intervals = st.builds(
    Interval,
    run_id=ids,
    started_at=st.integers(0, messages.LATEST_AT - 10**15),
    duration_s=st.floats(0, 1e9),
    state=st.sampled_from(Hearing),
    cause=st.just("") | texts,
)
counts = st.builds(
    SpeciesCount,
    scientific_name=texts,
    common_name=texts,
    n_events=st.integers(1, 10_000),
    first_at=instants,
    last_at=instants,
)
receipts = st.builds(
    Receipt,
    station=stations,
    logger_id=ids,
    logged_at=instants,
    ids=st.lists(ids, max_size=5).map(tuple),
    refused=st.lists(st.builds(Refusal, id=ids, reason=texts), max_size=3).map(tuple),
)
coverages = st.builds(
    Coverage,
    station=stations,
    station_key=ids,
    message_id=ids,
    intervals=st.lists(intervals, max_size=5).map(tuple),
)
summaries = st.builds(
    Summary,
    station=stations,
    station_key=ids,
    message_id=ids,
    date=st.dates().map(str),
    timezone=zones,
    species=st.lists(counts, max_size=3).map(tuple),
    heard_s=st.floats(0, 90_000),
    lost_s=st.floats(0, 90_000),
)
statuses = st.builds(
    Status,
    station=stations,
    station_key=ids,
    online=st.booleans(),
    at=st.none() | instants,
    version=st.none() | st.just("0.1.0"),
)


@given(detections())
def test_a_detection_reads_as_it_was_written(d: Detection) -> None:
    """Nothing is lost or bent on the way, to the last bit of a float."""
    message = messages.detection_message(d)
    assert messages.read_detection(message.topic, message.payload) == d


@given(receipts)
def test_a_receipt_reads_as_it_was_written(receipt: Receipt) -> None:
    """Ids and refusals keep their order."""
    message = messages.receipt_message(receipt)
    assert messages.read_receipt(message.topic, message.payload) == receipt


@given(coverages)
def test_coverage_reads_as_it_was_written(coverage: Coverage) -> None:
    """Durations keep their last bit, so that sums still agree with the clock."""
    message = messages.coverage_message(coverage)
    assert messages.read_coverage(message.topic, message.payload) == coverage


@given(statuses)
def test_a_status_reads_as_it_was_written(status: Status) -> None:
    """A status is retained, so that who comes later learns it."""
    message = messages.status_message(status)
    assert message.retain
    assert messages.read_status(message.topic, message.payload) == status


@given(summaries)
def test_a_summary_reads_as_it_was_written(summary: Summary) -> None:
    """A day's counts keep their order."""
    message = messages.summary_message(summary)
    assert messages.read_summary(message.topic, message.payload) == summary


def test_health_is_never_queued_and_tells_silence_as_null() -> None:
    """Silence has a level of minus infinity, which JSON does not know."""
    message = messages.health_message("garden", KEY, Health(5, {"level_dbfs": -math.inf, "n": 3}))
    assert message.qos == 0
    assert message.retain  # for who asks between two of them
    found = messages.read_health(message.topic, message.payload)
    assert found == Health(5, {"level_dbfs": None, "n": 3})


@given(st.text(), st.text(), st.text(max_size=2_000))
def test_odd_texts_never_keep_an_event_from_the_log(name: str, place: str, source: str) -> None:
    """What a file system or a person names oddly is written so that the reader takes it."""
    d = detection(common_name=name + "x", place=place, source=source, station=name)
    message = messages.detection_message(d)
    assert messages.read_detection(message.topic, message.payload).station == topic_level(name)


def test_an_embedding_beyond_float16_is_left_out() -> None:
    """The event counts more than its embedding."""
    d = detection(embedding=np.array([1.0, np.inf], "<f2").tobytes())
    message = messages.detection_message(d)
    assert messages.read_detection(message.topic, message.payload).embedding is None


@given(st.text())
def test_a_topic_level_is_one_level_and_its_own_level(name: str) -> None:
    """So a reader can tell a level that this code made from one that it did not."""
    level = topic_level(name)
    assert not set(level) & set("/+# \0\n")
    assert 1 <= len(level.encode()) <= messages.MAX_LEVEL_BYTES
    assert topic_level(level) == level
    assert messages.split_topic(f"fieldstation/{level}/status") == (level, "status")


def test_names_keep_what_people_can_read() -> None:
    """Only what a topic cannot hold is replaced."""
    assert topic_level("Gärten am See/Nord #1") == "Gärten-am-See-Nord-1"
    assert topic_level("+/#") == "station"
    assert Topics("my hut").detection == "fieldstation/my-hut/detection"


def test_the_station_is_the_topic_s_never_the_payload_s() -> None:
    """A broker's access list guards topics; what a payload claims, it cannot guard."""
    payload = messages.detection_message(detection(station="garden")).payload
    found = messages.read_detection("fieldstation/other/detection", payload)
    assert found.station == "other"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fieldstation",
        "fieldstation/garden",
        "fieldstation//detection",
        "fieldstation/a b/detection",
        "fieldstation/garden/detection/more",
        "fieldstation/garden/status",
        "other/garden/detection",
        "fieldstation/gar\x07den/detection",
    ],
)
def test_a_detection_on_another_topic_is_unfit(topic: str) -> None:
    """Also where the payload is in order."""
    payload = messages.detection_message(detection()).payload
    with pytest.raises(Unfit, match="topic"):
        messages.read_detection(topic, payload)


def altered(**changes: Any) -> bytes:
    """Return a detection's payload with fields replaced, or left out where None."""
    fields = json.loads(messages.detection_message(detection()).payload) | changes
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"probability": 1.01}, "probability"),
        ({"probability": "0.9"}, "probability"),
        ({"probability": True}, "probability"),
        ({"threshold": -0.1}, "threshold"),
        ({"sequence": 1.5}, "sequence"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": 2**63}, "sequence"),
        ({"sequence": 10**25}, "digits"),
        ({"event_id": "no uuid"}, "event_id"),
        ({"event_id": None}, "event_id"),
        ({"station_key": "a b"}, "station_key"),
        ({"started_at": "2026-05-01"}, "started_at"),
        ({"started_at": "2026-05-01T04:12:07+02:00"}, "started_at"),
        ({"started_at": "2026-02-30T04:12:07Z"}, "no such instant"),
        ({"started_at": "2026-05-01T04:12:07Z\n"}, "control"),
        ({"started_at": "0001-01-01T00:00:00Z"}, "time zone"),
        ({"ended_at": "9999-12-31T23:59:59Z"}, "time zone"),
        ({"ended_at": "2020-05-01T04:12:07Z"}, "before"),
        ({"timezone": "Europe"}, "no such zone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": "Moon/Crater"}, "no such zone"),
        ({"scientific_name": ""}, "scientific_name"),
        ({"common_name": "x" * 201}, "common_name"),
        ({"common_name": "a\0b"}, "control"),
        ({"common_name": "\ud800"}, "half a character"),
        ({"n_windows": 0}, "n_windows"),
        ({"place": {"latitude": 91}}, "latitude"),
        ({"clip": "../../etc/passwd"}, "clip"),
        ({"clip": "/etc/passwd"}, "clip"),
        ({"embedding": "AAA"}, "base64"),
        ({"embedding": "AAAA"}, "float16"),
        ({"embedding": "AHw="}, "float16"),
        ({"schema": "fieldstation.detection/2"}, "update"),
        ({"schema": 1}, "update"),
    ],
)
def test_a_field_that_does_not_fit_is_named(changes: dict[str, Any], reason: str) -> None:
    """The reason goes to the quarantine, where a person reads it."""
    with pytest.raises(Unfit, match=reason):
        messages.read_detection(TOPIC, altered(**changes))


def test_an_interval_ends_before_time_does() -> None:
    """Whoever sums hours derives local dates from both its ends."""
    endless = Interval("run-1", messages.LATEST_AT, 1.0, Hearing.HEARD)
    told = messages.coverage_message(Coverage("garden", KEY, "c-1", (endless,)))
    with pytest.raises(Unfit, match="no end"):
        messages.read_coverage(told.topic, told.payload)


def test_unknown_fields_are_let_through() -> None:
    """A newer station may say more within a version; what it says of old fields still holds."""
    found = messages.read_detection(TOPIC, altered(wing_beats=12, more={"deep": [1, 2]}))
    assert found == detection()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b"3", "object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "double"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\\u0000"}', "control"),
        (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "deeper"),
        (b"[" * 100_000, "deeper"),
        (b'{"a":' * 40_000, "deeper"),
        (b" " * (messages.MAX_PAYLOAD + 1), "bytes"),
    ],
    ids=str,
)
def test_what_is_no_clean_json_object_is_unfit(payload: bytes, reason: str) -> None:
    """Whatever a database, a terminal or another parser would stumble over ends here."""
    for kind, read in READERS.items():
        with pytest.raises(Unfit, match=reason):
            read(f"fieldstation/garden/{kind}", payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
SAMPLES = {
    "detection": messages.detection_message(
        detection(place="hut", latitude=1.0, embedding=b"\0\0", clip="a.flac", source="mic")
    ),
    "logged": messages.receipt_message(Receipt("garden", KEY, 0, ("a",), (Refusal("b", "why"),))),
    "coverage": messages.coverage_message(
        Coverage("garden", KEY, "m", (Interval("r", 0, 1.0, Hearing.LOST, "disk"),))
    ),
    "status": messages.status_message(Status("garden", KEY, True, 0, "0.1.0")),
    "health": messages.health_message("garden", KEY, Health(0, {"n": 1})),
    "summary": messages.summary_message(
        Summary("garden", KEY, "m", "2026-05-01", "UTC", (SpeciesCount("a", "b", 1, 0, 0),))
    ),
    "image": EXAMPLES["image"],
}


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_no_payload_raises_anything_but_unfit(kind: str, data: st.DataObject) -> None:
    """Whatever stands in whichever field, the logger goes on."""
    fields = json.loads(SAMPLES[kind].payload)
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), unique=True)):
        fields[name] = data.draw(json_values)
    payload = json.dumps(fields).encode()
    for candidate in (payload, data.draw(st.binary())):
        with suppress(Unfit):
            READERS[kind](f"fieldstation/garden/{kind}", candidate)


@given(st.just(TOPIC) | st.text(), st.binary())
def test_a_reason_is_one_short_line(topic: str, payload: bytes) -> None:
    """It stands in a log and in a table, whatever it quotes."""
    with pytest.raises(Unfit) as error:
        messages.read_detection(topic, payload)
    assert 0 < len(str(error.value)) < 1_000
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_the_schemas_are_valid_and_mean_the_same_to_another_validator(kind: str) -> None:
    """They are published: whoever checks with them elsewhere must agree."""
    name = "receipt" if kind == "logged" else kind
    schema = json.loads((messages.SCHEMAS / f"{name}.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    fields = json.loads(SAMPLES[kind].payload)
    jsonschema.validate(fields, schema)
    for required in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in fields.items() if k != required}, schema)


def test_every_field_that_is_written_is_described() -> None:
    """A schema is the field's documentation too."""
    for kind, message in SAMPLES.items():
        schema = json.loads(
            (messages.SCHEMAS / f"{'receipt' if kind == 'logged' else kind}.json").read_text()
        )
        described = {n for n, p in schema["properties"].items() if p.get("description")}
        assert set(json.loads(message.payload)) <= described


def test_an_unfit_message_may_still_show_its_id() -> None:
    """Then its station can be told that sending it again would not help."""
    assert messages.legible_id(altered(probability=2)) == detection().event_id
    assert messages.legible_id(SAMPLES["coverage"].payload) == "m"
    assert messages.legible_id(b"{}") is None
    assert messages.legible_id(b'{"event_id": "a b"}') is None
    assert messages.legible_id(b"\xff") is None


def test_the_largest_messages_of_ours_fit() -> None:
    """A full batch of receipts and a full page of intervals stay below the limit."""
    many = tuple(f"{n:036d}" for n in range(messages.MAX_IDS))
    receipt = messages.receipt_message(Receipt("garden", KEY, 0, many))
    page = (Interval("r" * 36, 0, 0.1 + 0.2, Hearing.CLOCK_STEP, "m" * 20),) * 500
    coverage = messages.coverage_message(Coverage("garden", KEY, "m" * 36, page))
    assert messages.read_receipt(receipt.topic, receipt.payload).ids == many
    assert messages.read_coverage(coverage.topic, coverage.payload).intervals == page
    refused = tuple(Refusal(id, '"é' * 250) for id in many)
    receipt = messages.receipt_message(Receipt("garden", KEY, 0, many, refused))
    told = messages.read_receipt(receipt.topic, receipt.payload)
    assert (told.ids, [refusal.id for refusal in told.refused]) == (many, list(many))
    assert all(refusal.reason.startswith('"é"é"é') for refusal in told.refused)
    with pytest.raises(ValueError, match="501 intervals"):
        messages.coverage_message(Coverage("garden", KEY, "m", page + page[:1]))


def altered_image(**changes: Any) -> bytes:
    return json.dumps(json.loads(SAMPLES["image"].payload) | changes).encode()


def test_a_picture_comes_back_as_it_was_sent() -> None:
    """Bytes and all; where it is kept is each logger's own affair."""
    found, png = messages.read_image(SAMPLES["image"].topic, SAMPLES["image"].payload)
    assert (found, png) == (PICTURE, ONE_PIXEL)


def test_a_picture_of_any_size_that_is_sent_is_read() -> None:
    """The largest fits into a message; a larger one is not sent."""
    png = bytes(range(256)) * (messages.MAX_PNG // 256)
    image = replace(PICTURE.image, n_bytes=len(png), sha256=hashlib.sha256(png).hexdigest())
    message = messages.image_message(replace(PICTURE, image=image), png)
    assert messages.read_image(message.topic, message.payload)[1] == png
    with pytest.raises(ValueError, match="to a message"):
        messages.image_message(PICTURE, png + b"x")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"png": "AAAA"}, "is not the one of sha256"),
        ({"png": "A" * 65_537}, "png"),
        ({"png": "AAA"}, "base64"),
        ({"sha256": "0" * 64}, "is not the one of sha256"),
        ({"generator_id": "../../etc/passwd"}, "generator_id"),
        ({"event_id": "../x"}, "event_id"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"width": 100_000}, "width"),
        ({"painted_from": "a photograph"}, "painted_from"),
        ({"timezone": "Mars/Olympus"}, "no such zone"),
    ],
)
def test_a_picture_that_does_not_fit_is_named(changes: dict[str, Any], reason: str) -> None:
    """Nothing of it may become a file's name or a row that means something else."""
    with pytest.raises(Unfit, match=reason):
        messages.read_image("fieldstation/garden/image", altered_image(**changes))


def test_the_picture_for_display_is_kept_by_the_broker() -> None:
    """Whoever subscribes later sees the newest at once."""
    message = messages.display_message("the garden", b"png")
    assert (message.topic, message.retain) == ("fieldstation/the-garden/image/png", True)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(value=st.dictionaries(st.text(max_size=3), JSON, max_size=3), ascii_only=st.booleans())
def test_a_text_that_seems_plain_holds_nothing_that_the_look_inside_refuses(
    value: dict[str, object], ascii_only: bool
) -> None:
    """Most messages are judged by their text alone: that must let nothing through."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    if messages._is_plain(text):
        messages._check_inside(json.loads(text))


@pytest.mark.parametrize("depth", range(1, 12))
def test_nesting_is_judged_alike_with_and_without_the_look_inside(depth: int) -> None:
    """The quick judgement counts brackets, the other levels."""
    text = '{"a":' * (depth - 1) + '{"a":1}' + "}" * (depth - 1)
    if messages._is_plain(text):
        messages._check_inside(json.loads(text))
    assert messages._is_plain(text) == (depth < messages.MAX_DEPTH)
