"""The whole service with its threads, a fake source and no command line."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fieldstation.bundle import Bundle
from fieldstation.clock import SystemClock
from fieldstation.config import ClipSettings, MqttSettings, Settings
from fieldstation.errors import MendableError
from fieldstation.records import AudioChunk, Message, OutboxRow, Place, StationIdentity
from fieldstation.service import Plan, Service
from fieldstation.state import State
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.station_db import StationStore
from tests.onnx_models import make_tone_bundle, tone

NOBODY = "mqtt://127.0.0.1:9"
RATE = 22_050


class Sound:
    """A source that gives chunks, then does what it is told, then ends."""

    description = "a fake"
    live = False
    problem = ""

    def __init__(self, at_end: Callable[[], None] = lambda: None) -> None:
        self._at_end = at_end

    def __iter__(self) -> Iterator[AudioChunk]:
        samples = np.concatenate([tone(2_000, 2, RATE), np.zeros(3 * RATE, np.float32)])
        yield AudioChunk(samples, RATE, SystemClock().wall())
        self._at_end()

    def close(self) -> None:
        """Do nothing: it ends by itself."""


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that names 2 kHz a Chaffinch."""
    return make_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


def make_plan(folder: Path, bundle: Bundle, sound: Sound, live: bool = False) -> Plan:
    """Return a plan whose broker is away."""
    settings = replace(Settings(), mqtt=MqttSettings(url=NOBODY), clips=ClipSettings(enabled=False))
    state = State(folder / "state")
    state.prepare()
    who = StationIdentity("hedge", state.key(), "UTC", Place(None, None, None))
    return Plan(settings, state, who, bundle, lambda _: sound, live)


@contextmanager
def asked_to_stop_after(seconds: float) -> Iterator[threading.Event]:
    """Send this process SIGTERM, which its service takes; give whether that was needed."""
    needed = threading.Event()

    def ask() -> None:
        needed.set()
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    timer = threading.Timer(seconds, ask)
    timer.start()
    try:
        yield needed
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_source_that_breaks_off_ends_the_service_though_nobody_confirms(
    tmp_path: Path, tones: Bundle
) -> None:
    """What was heard waits in the outbox for the next run; this one says what is wrong."""

    def break_off() -> None:
        raise MendableError("the recording is torn")

    service = Service(make_plan(tmp_path, tones, Sound(break_off)))
    with asked_to_stop_after(60) as needed, pytest.raises(MendableError, match="torn"):
        service.run()
    assert not needed.is_set()


class UnreadableOutbox:
    """An outbox on a disk that gives nothing for a while; then all is told."""

    n_asked = 0

    def pending(self, after: int, limit: int) -> list[OutboxRow]:
        """Return nothing: the broker is away anyhow."""
        return []

    def n_pending(self) -> int:
        """Fail three times."""
        self.n_asked += 1
        if self.n_asked <= 3:
            raise StoreUnavailable("the disk does not give data")
        return 0

    def confirm(self, ids: Sequence[str], /) -> None:
        """Take what is confirmed."""


def test_an_outbox_that_cannot_be_read_at_the_end_is_asked_again(
    tmp_path: Path, tones: Bundle
) -> None:
    """What waits is not taken for told, and the fault for no reason to break off."""
    outbox = UnreadableOutbox()
    service = Service(make_plan(tmp_path, tones, Sound()))
    service._publisher._outbox = outbox
    with asked_to_stop_after(60) as needed:
        assert service.run()
    assert outbox.n_asked > 3
    assert not needed.is_set()


def test_a_full_outbox_makes_a_live_station_deaf_and_the_ledger_says_so(
    tmp_path: Path, tones: Bundle
) -> None:
    """No event, no loss that nobody sees: the time is lost to the disk until there is room."""

    class Live(Sound):
        live = True

        def __iter__(self) -> Iterator[AudioChunk]:
            wait_until(lambda: "the outbox is full" in " ".join(service._problems()))
            for _ in range(3):
                time.sleep(0.1)
                yield from super().__iter__()

    plan = make_plan(tmp_path, tones, Live(), live=True)
    mqtt = replace(plan.settings.mqtt, outbox_max_mb=1)
    plan = replace(plan, settings=replace(plan.settings, mqtt=mqtt))
    with closing(StationStore(plan.state.station_db)) as store:
        for number in range(120):
            store.post_message(f"summary-{number}", Message("topic", bytes(10_000)))
    service = Service(plan)
    with asked_to_stop_after(60) as needed:
        service.run()
    assert not needed.is_set()
    with closing(sqlite3.connect(plan.state.station_db)) as found:
        assert found.execute("SELECT count(*) FROM events").fetchone() == (0,)
        lost = "SELECT sum(duration_s) >= 0.3 FROM coverage WHERE state = 'lost' AND cause = 'disk'"
        assert found.execute(lost).fetchone() == (1,)
        heard = "SELECT count(*) FROM coverage WHERE state = 'heard'"
        assert found.execute(heard).fetchone() == (0,)


def wait_until(so: Callable[[], bool]) -> None:
    """Wait until something is so; fail when it does not become so."""
    ends_at = time.monotonic() + 20
    while not so():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.02)
