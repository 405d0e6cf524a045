"""A broker of its own for each test, and connections with little patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.mqtt.connection import Access, BrokerUrl, Connection, Timing
from tests.mosquitto import Mosquitto

QUICK = Timing(keepalive_s=10, connect_s=20.0, first_wait_s=0.05, longest_wait_s=0.2)
"""Tries again at once, but takes nothing for lost that is only slow, as a busy machine is"""
IMPATIENT = replace(QUICK, keepalive_s=1, connect_s=2.0)
"""Sees within two seconds that a broker hangs"""

Connect = Callable[[], Connection]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a running broker that lets everybody in."""
    found = Mosquitto(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def connect(broker: Mosquitto) -> Connect:
    """Return what makes a connection to the broker, not yet open."""
    return lambda: Connection(Access(BrokerUrl.parse(broker.url)), QUICK)


@pytest.fixture
def connect_impatiently(broker: Mosquitto) -> Connect:
    """Return what makes a connection that soon takes a broker that hangs for lost."""
    return lambda: Connection(Access(BrokerUrl.parse(broker.url)), IMPATIENT)
