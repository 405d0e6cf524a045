"""The whole service with its threads, a fake source and no command line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fieldstation.bundle import Bundle
from fieldstation.clock import SystemClock
from fieldstation.config import ClipSettings, MqttSettings, Settings
from fieldstation.errors import MendableError
from fieldstation.records import AudioChunk, Place, StationIdentity
from fieldstation.service import Plan, Service
from fieldstation.state import State
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
    with asked_to_stop_after(20) as needed, pytest.raises(MendableError, match="torn"):
        service.run()
    assert not needed.is_set()
