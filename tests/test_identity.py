"""Ids sort by time where events are live and repeat where files are replayed."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.identity import FILE_EVENTS, file_event_id, uuid7

CHAFFINCH = "Fringilla coelebs"
INSTANTS = st.integers(0, (1 << 48) * 1_000 - 1)


def test_uuid7_lays_out_the_example_of_the_rfc() -> None:
    """The instant of RFC 9562's appendix A.6 gives its bits, with our sub-millisecond field."""
    tail = (0x18C4DC0C0C07398F).to_bytes(8)
    made = uuid7(0x017F22E279B0 * 1_000, random=lambda n: tail)
    assert str(made) == "017f22e2-79b0-7000-98c4-dc0c0c07398f"


@given(INSTANTS, INSTANTS)
def test_ids_of_later_microseconds_sort_later(one: int, other: int) -> None:
    """Text order of two live ids is the order of their instants, to the microsecond."""
    if one != other:
        assert (str(uuid7(one)) < str(uuid7(other))) == (one < other)


@given(INSTANTS)
def test_uuid7_is_of_version_seven_and_never_the_same(at: int) -> None:
    """Version and variant are set, and one instant names many events."""
    first, second = uuid7(at), uuid7(at)
    assert first.version == 7
    assert first.variant == uuid.RFC_4122
    assert first != second
    assert first.int >> 80 == at // 1_000


def test_uuid7_refuses_an_instant_before_the_epoch() -> None:
    """A negative instant cannot be written in 48 bits and is an error."""
    with pytest.raises(ValueError, match="-1"):
        uuid7(-1)


def test_the_namespace_is_what_its_docstring_says() -> None:
    """The namespace derives from the DNS namespace and never changes."""
    assert uuid.uuid5(uuid.NAMESPACE_DNS, "event.fieldstation") == FILE_EVENTS


def test_a_file_event_keeps_its_id_for_ever() -> None:
    """One known id is pinned: were it to change, every replayed log would double."""
    made = file_event_id("garden", "ab" * 32, CHAFFINCH, 66_150, "0123456789abcdef")
    assert str(made) == "fd012f25-b09e-593a-baa9-1bfa0c61f243"
    assert made.version == 5


def test_a_file_event_is_told_apart_by_each_of_its_parts() -> None:
    """Station, content, species, place in the file and encoder each make another id."""
    parts: tuple[Any, ...] = ("garden", "ab" * 32, CHAFFINCH, 66_150, "0123456789abcdef")
    others = ("meadow", "cd" * 32, "Parus major", 0, "fedcba9876543210")
    ids = {file_event_id(*parts)}
    for index, other in enumerate(others):
        changed = (*parts[:index], other, *parts[index + 1 :])
        ids.add(file_event_id(*changed))
    assert len(ids) == 6
