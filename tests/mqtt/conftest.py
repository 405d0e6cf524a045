"""A broker of its own for each test, and connections with little patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fieldstation.mqtt.connection import Access, BrokerUrl, Connection, Timing
from tests.mosquitto import Mosquitto

QUICK = Timing(keepalive_s=1, connect_s=2.0, first_wait_s=0.05, longest_wait_s=0.2, stable_s=0.5)

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
