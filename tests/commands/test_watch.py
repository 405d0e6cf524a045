"""`fieldstation watch`: any message that is taken becomes a line."""

from __future__ import annotations

import json
from zoneinfo import available_timezones

import pytest

from fieldstation.cli import main
from fieldstation.commands.watch import describe
from tests.mqtt.wire_examples import EXAMPLES


@pytest.mark.parametrize("kind", ["detection", "image"])
@pytest.mark.parametrize("at", ["0001-01-03T00:00:00Z", "9999-12-29T00:00:00Z"])
def test_the_first_and_the_last_instant_have_a_local_time_in_every_zone(kind: str, at: str) -> None:
    """No zone leads beyond the dates that Python has; what lies beyond is not taken."""
    fields = json.loads(EXAMPLES[kind].payload)
    fields |= {name: at for name in fields if name in ("started_at", "ended_at")}
    for zone in sorted(available_timezones()):
        payload = json.dumps(fields | {"timezone": zone}).encode()
        assert "Chaffinch" in describe(EXAMPLES[kind].topic, payload)


def test_an_instant_beyond_them_is_said_to_be_not_understood() -> None:
    """The end of the year 9999 has no local time east of Greenwich."""
    fields = json.loads(EXAMPLES["detection"].payload) | {"ended_at": "9999-12-31T23:59:59Z"}
    said = describe(EXAMPLES["detection"].topic, json.dumps(fields).encode())
    assert "not understood: ended_at" in said


def test_a_count_of_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody means to watch for no bird."""
    assert main(["watch", "--count", "0"]) == 2
    assert "--count is 0; at least 1" in capsys.readouterr().err
