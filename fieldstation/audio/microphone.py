"""A microphone that outlives its own absence.

PortAudio's thread puts blocks into a queue; the iterator takes them out, gives each its place in
time and yields it. When the device vanishes, falls silent or changes its rate, the iterator opens
it again, and says with the first chunk how much was lost meanwhile and why.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fieldstation.audio.anchor import Anchor, Placed
from fieldstation.audio.block_queue import Block, BlockQueue
from fieldstation.audio.devices import Device, DeviceError, DeviceNotFound, choose_device
from fieldstation.audio.mono import is_sound, to_mono
from fieldstation.audio.portaudio import PortAudio, SoundSystem, Stream
from fieldstation.audio.source import OnWait, ignore_wait
from fieldstation.clock import Clock, SystemClock
from fieldstation.records import AudioChunk, Samples

__all__ = [
    "Device",
    "DeviceError",
    "DeviceNotFound",
    "Microphone",
    "MicrophoneState",
    "Patience",
    "find_device",
    "list_devices",
]

log = logging.getLogger(__name__)

CAUSE, DEAD = "microphone", "dead"
"""It gives nothing; it gives nothing but zeros"""


def list_devices() -> list[Device]:
    """Return everything with an input.

    Raises:
        DeviceNotFound: PortAudio is not installed; the text says how to.
    """
    return PortAudio().devices()


def find_device(spec: str | int | None = None) -> Device:
    """Return the device called so: index, stable id, name or part of it; None is the default.

    Raises:
        DeviceNotFound: none, or several; the text lists what there is.
    """
    return choose_device(list_devices(), spec)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a microphone may keep quiet, in seconds."""

    poll_s: float = 0.25
    """Between looks at whether it was closed"""
    quiet_s: float = 0.5
    """Without a block it counts as waiting"""
    stall_s: float = 2.0
    """Without a block it is taken for gone"""
    retry_s: tuple[float, float] = (0.5, 3.0)
    """Shortest and longest wait before it is opened again: with what opening takes, it is heard
    within 5 s of its return"""
    dead_s: float = 60.0
    """Of nothing but zeros: no microphone in the world is that quiet; infinite: one may be"""
    ahead_s: float = 1.0
    """More sound than time by this much: the device runs at another rate than it says"""


@dataclass(frozen=True, slots=True)
class MicrophoneState:
    """For `check` and health."""

    device: str | None = None
    """Name of the open device"""
    sample_rate: int | None = None
    n_overflows: int = 0
    n_lost: int = 0
    """Samples, of every cause, since the start"""
    n_clipped: int = 0
    problem: str | None = None
    """What is wrong now, and the mend"""


class Microphone:
    """An endless source of chunks from an input device."""

    live = True

    def __init__(
        self,
        device: str | int | None = None,
        channel: int | None = None,
        clock: Clock | None = None,
        on_wait: OnWait = ignore_wait,
        queue_s: float = 60.0,
        wait: bool = True,
        sound: SoundSystem | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Say what to listen to; the device is opened by the iteration.

        Args:
            device: index, stable id or name; None is the default input.
            channel: index from 0 of the channel to hear; None mixes down.
            clock: names the instants.
            on_wait: told `microphone` while no sound comes.
            queue_s: sound that may wait for the analysis before the oldest is dropped.
            wait: whether to wait for a device that is not there yet.
            sound: PortAudio, or what stands in for it.
            patience: how long to wait for what.

        Raises:
            DeviceError: `wait` is false and there is no such device or channel.
        """
        self._spec = device
        self._channel = channel
        self._clock = clock or SystemClock()
        self._on_wait = on_wait
        self._queue_s = queue_s
        self._sound = sound or PortAudio()
        self._patience = patience or Patience()
        self._closed = threading.Event()
        self._anchor: Anchor | None = None
        self._state = MicrophoneState()
        self._delays = self._back_off()
        self._unheard = 0
        """Samples that came but were no sound, since the last chunk"""
        self._unheard_cause = CAUSE
        self._zeros_s = 0.0
        if not wait:
            self._choose()

    @property
    def description(self) -> str:
        """Return the device's name and rate, or that it is awaited."""
        state = self._state
        if state.device is None:
            wanted = "the default microphone" if self._spec is None else repr(self._spec)
            return f"{wanted} (waiting for it)"
        return f"{state.device}, {state.sample_rate} Hz"

    @property
    def problem(self) -> str:
        """Return what is wrong now, and the mend; empty when all is well."""
        return self._state.problem or ""

    def state(self) -> MicrophoneState:
        """Return how it goes; from any thread."""
        return self._state

    def close(self) -> None:
        """End the iteration soon; it closes the device itself."""
        self._closed.set()

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield chunks until closed, through any absence of the device."""
        began = self._clock.monotonic()
        n_attempts = 0
        while not self._closed.is_set():
            # The list of devices is fresh at the first attempt, stale at any later one.
            opened = self._try_open(refresh=n_attempts > 0)
            n_attempts += 1
            if opened is not None:
                stream, queue = opened
                try:
                    yield from self._listen(stream, queue, began if n_attempts > 1 else None)
                finally:
                    stream.close()
            self._wait(next(self._delays))

    def _try_open(self, refresh: bool) -> tuple[Stream, BlockQueue] | None:
        try:
            if refresh:
                self._sound.refresh()
            device = self._choose()
            stream, queue = self._open(device)
        except DeviceError as error:
            self._report(str(error))
            return None
        self._state = replace(self._state, device=device.name, sample_rate=stream.sample_rate)
        return stream, queue

    def _choose(self) -> Device:
        device = choose_device(self._sound.devices(), self._spec)
        if self._channel is not None and self._channel >= device.n_channels:
            raise DeviceError(
                f"audio.channel is {self._channel + 1}; {device.name!r} has "
                f"{device.n_channels}: choose one of them, or 0 to mix them"
            )
        return device

    def _open(self, device: Device) -> tuple[Stream, BlockQueue]:
        queue = BlockQueue(round(self._queue_s * max(device.sample_rate, 48_000)))

        def on_block(frames: Samples, overflowed: bool) -> None:
            queue.put(Block(frames, self._clock.monotonic(), overflowed))

        n_channels = None if self._channel is None else self._channel + 1
        stream = self._sound.open(device, n_channels, on_block)
        queue.limit(round(self._queue_s * stream.sample_rate))  # known only now
        return stream, queue

    def _listen(
        self, stream: Stream, queue: BlockQueue, waited_since: float | None
    ) -> Iterator[AudioChunk]:
        """Yield chunks until the stream is lost or the microphone closed."""
        first = True
        heard_at = self._clock.monotonic()
        while not self._closed.is_set():
            block = queue.get(self._patience.poll_s)
            if block is None:
                if self._is_lost(stream, self._clock.monotonic() - heard_at):
                    return
                continue
            heard_at = self._clock.monotonic()
            placed = (
                self._place_first(stream.sample_rate, block, waited_since)
                if first
                else self._place(block)
            )
            chunk = self._hear(block, placed, stream.sample_rate, first)
            first = False
            if chunk is not None:
                yield chunk
            if self._is_too_fast():
                return

    def _is_lost(self, stream: Stream, quiet_s: float) -> bool:
        if quiet_s >= self._patience.quiet_s:
            self._on_wait(CAUSE)
        if stream.active and quiet_s < self._patience.stall_s:
            return False
        self._report(f"{self._state.device!r} gives no sound any more: is it plugged in?")
        return True

    def _is_too_fast(self) -> bool:
        if self._anchor is None or self._anchor.ahead_s < self._patience.ahead_s:
            return False
        self._report(
            f"{self._state.device!r} sends more than its {self._state.sample_rate} samples a "
            "second: its rate was changed; opening it again"
        )
        return True

    def _place_first(self, sample_rate: int, block: Block, waited_since: float | None) -> Placed:
        n = len(block.frames)
        if self._anchor is not None:
            return self._anchor.resume(sample_rate, n, block.arrived)
        self._anchor = Anchor(self._clock, sample_rate, n, block.arrived)
        placed = self._anchor.place(n, block.arrived)
        if waited_since is None:
            return replace(placed, n_lost=block.n_dropped)
        missed_s = block.arrived - waited_since - n / sample_rate
        return replace(placed, n_lost=max(1, round(missed_s * sample_rate)))

    def _place(self, block: Block) -> Placed:
        assert self._anchor is not None  # _place_first came before
        return self._anchor.place(
            len(block.frames), block.arrived, block.n_dropped, block.overflowed
        )

    def _hear(
        self, block: Block, placed: Placed, sample_rate: int, first: bool
    ) -> AudioChunk | None:
        """Return the block as a chunk, or None where it holds no sound."""
        lost = placed.n_lost + self._unheard
        if why_not := self._why_no_sound(block.frames, sample_rate):
            self._unheard = lost + len(block.frames)
            self._unheard_cause = why_not
            self._on_wait(why_not)
            return None
        cause = _cause(block, placed, first, self._unheard_cause if self._unheard else "")
        self._unheard = 0
        self._recover()
        samples, n_clipped = to_mono(block.frames, self._channel)
        self._count(block, lost, n_clipped)
        # A step of the wall clock loses nothing, but no window and no event may straddle it.
        gap = max(lost, int(placed.stepped))
        return AudioChunk(
            samples, sample_rate, placed.captured_at, gap, cause if gap else "", n_clipped
        )

    def _why_no_sound(self, frames: Samples, sample_rate: int) -> str:
        """Return the cause for which a block is not heard; empty where it is sound."""
        if not is_sound(frames).all():
            self._report(f"{self._state.device!r} sends samples that are no sound: left out")
            return CAUSE
        self._zeros_s = 0.0 if frames.any() else self._zeros_s + len(frames) / sample_rate
        if self._zeros_s < self._patience.dead_s:
            return ""
        self._report(
            f"{self._state.device!r} has sent nothing but zeros for "
            f"{self._patience.dead_s:.0f} s: is it muted or switched off?"
        )
        return DEAD

    def _count(self, block: Block, n_lost: int, n_clipped: int) -> None:
        state = self._state
        self._state = replace(
            state,
            n_overflows=state.n_overflows + block.overflowed,
            n_lost=state.n_lost + n_lost,
            n_clipped=state.n_clipped + n_clipped,
        )

    def _report(self, problem: str) -> None:
        """Log a problem once, and keep it for whoever asks."""
        if problem != self._state.problem:
            log.warning("microphone: %s", problem)
            self._state = replace(self._state, problem=problem)

    def _recover(self) -> None:
        if self._state.problem is not None:
            log.info("microphone: %s is heard again", self._state.device)
            self._state = replace(self._state, problem=None)
            self._delays = self._back_off()

    def _back_off(self) -> Iterator[float]:
        """Yield waits that double, jittered so that stations on one hub do not move in step."""
        wait_s, longest_s = self._patience.retry_s
        while True:
            yield min(wait_s * random.uniform(1.0, 1.5), longest_s)
            wait_s = min(2 * wait_s, longest_s)

    def _wait(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while (left_s := until - self._clock.monotonic()) > 0:
            self._on_wait(CAUSE)
            if self._closed.wait(min(left_s, self._patience.poll_s)):
                return


def _cause(block: Block, placed: Placed, first: bool, unheard_cause: str) -> str:
    """Return why sound is missing before a block, where some is.

    Args:
        unheard_cause: why the blocks before it were no sound; empty where they were.
    """
    if unheard_cause:
        return unheard_cause
    if block.n_dropped:
        return "behind"
    if block.overflowed and not first:
        return "overflow"
    return CAUSE if first or placed.n_lost else "clock"
