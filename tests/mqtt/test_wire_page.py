"""docs/wire.md against the code that it describes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from fieldstation.mqtt import messages
from fieldstation.mqtt.messages import KINDS, SCHEMAS, Unfit
from tests.mqtt.wire_examples import EXAMPLES

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
READERS: dict[str, Callable[[str, bytes], object]] = {
    "detection": messages.read_detection,
    "logged": messages.read_receipt,
    "coverage": messages.read_coverage,
    "status": messages.read_status,
    "health": messages.read_health,
    "summary": messages.read_summary,
    "image": messages.read_image,
}


def section(kind: str) -> str:
    """Return the page's section on one kind of message."""
    found = re.search(rf"^## {kind}\n(.*?)(?=^## )", PAGE.read_text("utf-8"), re.M | re.S)
    assert found, f"docs/wire.md has no section {kind}"
    return found[1]


def schema(kind: str) -> dict[str, dict[str, object]]:
    """Return the JSON Schema of a kind."""
    name = "receipt" if kind == "logged" else kind
    loaded: dict[str, dict[str, object]] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return loaded


@pytest.mark.parametrize("kind", READERS)
def test_each_example_on_the_page_is_what_the_code_writes(kind: str) -> None:
    """To bring the page up to date: python -m tests.mqtt.wire_examples docs/wire.md."""
    shown = re.search(r"```json\n(.*?)```", section(kind), re.S)
    assert shown, "no example"
    assert json.loads(shown[1]) == json.loads(EXAMPLES[kind].payload)


@pytest.mark.parametrize("kind", READERS)
def test_each_example_on_the_page_is_taken_by_the_logger_and_by_its_schema(kind: str) -> None:
    """Copied from the page and published, it would be understood."""
    shown = re.search(r"```json\n(.*?)```", section(kind), re.S)
    assert shown
    jsonschema.validate(json.loads(shown[1]), schema(kind))
    READERS[kind](f"fieldstation/garden/{kind}", shown[1].encode())
    with pytest.raises(Unfit):
        READERS[kind](f"fieldstation/garden/{kind}", shown[1].replace('/1"', '/9"').encode())


@pytest.mark.parametrize("kind", READERS)
def test_the_page_has_every_field_and_says_whether_it_is_required(kind: str) -> None:
    """Neither more nor less than the schema."""
    rows = re.findall(r"^\| (`[^|]+) \|([^|]*)\|", section(kind), re.M)
    told = {name: need.strip() for names, need in rows for name in re.findall(r"`([^`]+)`", names)}
    top = {name: need for name, need in told.items() if "[]." not in name}
    assert set(top) == set(schema(kind)["properties"])
    assert {n for n, need in top.items() if need == "required"} == set(schema(kind)["required"])


def test_the_page_has_every_topic() -> None:
    """A topic that is not told is not there."""
    table = re.search(r"^## Topics\n(.*?)(?=^## )", PAGE.read_text("utf-8"), re.M | re.S)
    assert table
    assert set(KINDS) <= set(re.findall(r"`([a-z/]+)`", table[1]))
