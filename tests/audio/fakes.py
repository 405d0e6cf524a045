"""Chunks made by hand, and a sound system without sound cards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from fieldstation.audio.devices import Device, DeviceError
from fieldstation.audio.portaudio import OnBlock
from fieldstation.records import AudioChunk, FileOrigin, Samples
from tests.fakes import FakeClock

STARTED_AT = 1_750_000_000_000_000


def noise(n: int, seed: int = 0) -> Samples:
    """Return float32 [n] of quiet noise."""
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def chunks(
    samples: Samples, sample_rate: int, sizes: Iterable[int], path: str | None = None
) -> list[AudioChunk]:
    """Cut samples into chunks of the given sizes and what is left, as from a file or live."""
    cut, at = [], 0
    for size in [*sizes, samples.size]:
        part = samples[at : at + size]
        if part.size:
            captured_at = STARTED_AT + round(at * 1_000_000 / sample_rate)
            origin = FileOrigin(path, f"hash of {path}", at) if path else None
            cut.append(AudioChunk(part, sample_rate, captured_at, file=origin))
        at += part.size
    return cut


def a_device(index: int = 0, name: str = "USB Audio: #0 (hw:1,0)", **changes: object) -> Device:
    """Return a stereo microphone."""
    described = {
        "stable_id": "usb:0d8c:0014:A1",
        "n_channels": 2,
        "sample_rate": 44_100,
        "is_default": False,
        "hostapi": "ALSA",
    }
    return Device(index=index, name=name, **(described | changes))  # type: ignore[arg-type]


@dataclass
class FakeStream:
    """An open input that sent everything it ever will."""

    sample_rate: int
    n_channels: int
    active: bool = False
    closed: bool = False

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


@dataclass
class Session:
    """What a device does while it is open: the blocks it sends, or why it cannot be opened."""

    blocks: list[tuple[Samples, bool]] = field(default_factory=list)
    sample_rate: int = 48_000
    fault: str | None = None
    hangs: bool = False
    """Stays open after its last block, and silent"""


class FakeSound:
    """PortAudio's stand-in: plays one session after the other, then has no device any more."""

    def __init__(
        self, clock: FakeClock, sessions: Iterable[Session], devices: Iterable[Device] = ()
    ) -> None:
        self._clock = clock
        self._sessions = list(sessions)
        self._devices = list(devices) or [a_device(is_default=True)]
        self.n_refreshed = 0
        self.streams: list[FakeStream] = []
        self.on_exhausted: Callable[[], None] = lambda: None

    def refresh(self) -> None:
        """Count it."""
        assert all(stream.closed for stream in self.streams), "a refresh kills open streams"
        self.n_refreshed += 1

    def devices(self) -> list[Device]:
        """Return the devices as long as a session is left."""
        if self._sessions:
            return self._devices
        self.on_exhausted()
        return []

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> FakeStream:
        """Send the session's blocks at the pace of the sample rate."""
        session = self._sessions.pop(0)
        if session.fault:
            raise DeviceError(session.fault)
        for frames, overflowed in session.blocks:
            self._clock.advance(len(frames) / session.sample_rate)
            on_block(frames, overflowed)
        self.streams.append(FakeStream(session.sample_rate, device.n_channels, session.hangs))
        return self.streams[-1]
