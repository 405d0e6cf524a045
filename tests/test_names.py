"""What people, models and other machines call things never leads a file or a topic astray."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from fieldstation.clips.writer import clip_name
from fieldstation.gallery import picture_name
from fieldstation.mqtt.messages import KINDS, Topics, Unfit, split_topic
from fieldstation.records import Event, Label
from tests.store.examples import event

LEADING_ASTRAY = (
    *("../x", "/etc/passwd", "a/b", "..", ".", "", "~", "\0", "\ud800", "ä" * 200),
    *("+", "#", "a#", "$SYS"),
)
ODD = st.text() | st.sampled_from(LEADING_ASTRAY)
ZONES = st.sampled_from(["Pacific/Kiritimati", "America/Adak", "Europe/Berlin", "UTC"])
FOLDER = Path("/state/clips")


def inside(name: str) -> bool:
    """Return whether a name leads to a file just below a folder of the clip folder."""
    path = Path(f"{FOLDER}/{name}")
    return (
        FOLDER.joinpath(name) == path
        and path.parent.parent == FOLDER
        and path.is_relative_to(FOLDER)
        and not {"..", "."} & set(name.split("/"))
        and name.isascii()
    )


@given(st.uuids(), ODD, ODD, ZONES)
def test_a_clip_s_file_is_named_by_id_and_date_alone(
    event_id: UUID, scientific_name: str, common_name: str, zone: str
) -> None:
    """Whatever a model calls its birds."""
    label = Label(scientific_name, common_name)
    found: Event = event(event_id.int, label=label)
    assert inside(clip_name(found, zone))
    assert clip_name(found, zone).endswith(f"/{event_id}.flac")


@given(st.uuids().map(str) | ODD, st.just("0123456789abcdef") | ODD, st.integers(0, 2**63), ZONES)
def test_a_picture_s_file_is_named_by_ids_or_not_at_all(
    event_id: str, generator_id: str, seed: int, zone: str
) -> None:
    """An id that is none is refused, not cleaned: it would name another picture."""
    try:
        name = picture_name(event_id, generator_id, seed, 1_777_600_000_000_000, zone)
    except ValueError:
        return
    assert inside(name)


@pytest.mark.parametrize("event_id", ["../../etc/passwd", "", "x" * 36])
def test_an_id_that_is_none_names_no_picture(event_id: str) -> None:
    """Or the property above would hold of nothing."""
    with pytest.raises(ValueError, match="badly formed"):
        picture_name(event_id, "0123456789abcdef", 1, 0, "UTC")


@given(ODD, st.sampled_from(KINDS))
def test_a_station_s_topics_are_three_levels_without_wildcards(name: str, kind: str) -> None:
    """And they read back as the same station and kind."""
    topic = Topics(name).of(kind)
    assert topic.count("/") == 2 + kind.count("/")
    assert not set("+#\0") & set(topic)
    assert split_topic(topic) == (Topics(name).level, kind)


@given(ODD, ODD, st.sampled_from(KINDS))
def test_a_station_cannot_be_called_so_that_it_writes_as_another(
    one: str, other: str, kind: str
) -> None:
    """The access list's `fieldstation/ONE/#` matches no topic of a station of another level."""
    mine, theirs = Topics(one).level, Topics(other).level
    assume(mine != theirs)
    assert not topic_matches_sub(f"fieldstation/{mine}/#", Topics(other).of(kind))


@given(st.text())
def test_a_topic_that_is_not_ours_is_refused(topic: str) -> None:
    """Whose message it is comes from the topic, so a topic must be beyond doubt."""
    try:
        station, kind = split_topic(topic)
    except Unfit:
        return
    assert topic == Topics(station).of(kind)
