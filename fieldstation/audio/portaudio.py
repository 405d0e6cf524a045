"""PortAudio, and the only importer of sounddevice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from fieldstation.audio.devices import Device, DeviceError, DeviceNotFound, holder, stable_id
from fieldstation.audio.mono import from_int16
from fieldstation.records import Samples

BLOCK_S = 0.05
"""Sound per callback: 20 turns a second for the interpreter, 50 ms of delay for a bird"""
LATENCY_S = 0.2
"""What PortAudio buffers: a callback that waits for the interpreter's lock loses nothing"""
PREFERRED_RATE = 48_000
"""Nearly every device has it in hardware, and no bird that the encoders know sings above it"""
MAX_HARDWARE_CHANNELS = 8
"""A device with more is a sound server's placeholder (PipeWire says 64): two are opened"""

PA_SAMPLE_FORMAT_NOT_SUPPORTED = -9994
PA_DEVICE_UNAVAILABLE = -9985
"""From portaudio.h, enum PaErrorCode"""

OnBlock = Callable[[Samples, bool], None]
"""Told float32 [n, channels], its own copy, and whether samples were lost before it"""


class Stream(Protocol):
    """An open input."""

    sample_rate: int
    n_channels: int

    @property
    def active(self) -> bool:
        """Return whether blocks may still come."""
        ...

    def close(self) -> None:
        """Stop it; what is gone already is no error."""
        ...


class SoundSystem(Protocol):
    """What a microphone needs of PortAudio; tests bring another."""

    def refresh(self) -> None:
        """Look for devices anew. No stream may be open."""
        ...

    def devices(self) -> list[Device]:
        """Return everything with an input."""
        ...

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> Stream:
        """Start listening.

        Args:
            n_channels: at least so many; None lets the device say.
            on_block: called from PortAudio's own thread.

        Raises:
            DeviceError: it cannot be opened; the text names who holds it.
        """
        ...


class PortAudio:
    """The real one."""

    def refresh(self) -> None:
        """Look for devices anew.

        PortAudio lists devices once, when it is initialised: a microphone that is plugged in
        again exists for it only after it was terminated and initialised. That kills every open
        stream of the process, so it happens here and only where the one stream is closed.
        sounddevice has no public name for it (spatialaudio/python-sounddevice#125).
        """
        sd = _sounddevice()
        # Refused where the last initialisation failed: then there is nothing to terminate.
        with suppress(sd.PortAudioError):
            sd._terminate()
        try:
            sd._initialize()
        except sd.PortAudioError as error:
            raise DeviceError(f"PortAudio cannot start: {error}: is ALSA set up?") from error

    def devices(self) -> list[Device]:
        """Return everything with an input.

        Raises:
            DeviceNotFound: PortAudio itself is missing.
        """
        sd = _sounddevice()
        default = self._default_index()
        hostapis = [api["name"] for api in sd.query_hostapis()]
        return [
            Device(
                index=entry["index"],
                name=entry["name"],
                stable_id=stable_id(entry["name"]),
                n_channels=entry["max_input_channels"],
                sample_rate=round(entry["default_samplerate"]),
                is_default=entry["index"] == default,
                hostapi=hostapis[entry["hostapi"]],
            )
            for entry in sd.query_devices()
            if entry["max_input_channels"] > 0
        ]

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> Stream:
        """Start listening at 48 kHz if the device can, else at its own default rate."""
        sd = _sounddevice()
        n = max(_usual_channels(device), n_channels or 1)
        try:
            sample_rate = self._sample_rate(device, n)
            return _open_stream(device, sample_rate, n, on_block)
        except sd.PortAudioError as error:
            raise DeviceError(_why_not(device, error)) from error

    def _default_index(self) -> int | None:
        sd = _sounddevice()
        try:
            return int(sd.query_devices(kind="input")["index"])
        except (sd.PortAudioError, ValueError):
            return None

    def _sample_rate(self, device: Device, n_channels: int) -> int:
        sd = _sounddevice()
        try:
            sd.check_input_settings(
                device=device.index, channels=n_channels, samplerate=PREFERRED_RATE
            )
        except sd.PortAudioError:
            return device.sample_rate
        return PREFERRED_RATE


class _PortAudioStream:
    def __init__(self, stream: Any, sample_rate: int, n_channels: int) -> None:
        self._stream = stream
        self.sample_rate = sample_rate
        self.n_channels = n_channels

    @property
    def active(self) -> bool:
        return bool(self._stream.active)

    def close(self) -> None:
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)


def _open_stream(device: Device, sample_rate: int, n_channels: int, on_block: OnBlock) -> Stream:
    sd = _sounddevice()
    try:
        return _start(device, sample_rate, n_channels, "float32", on_block)
    except sd.PortAudioError as error:
        if _code(error) != PA_SAMPLE_FORMAT_NOT_SUPPORTED:
            raise
        return _start(device, sample_rate, n_channels, "int16", on_block)


def _start(
    device: Device, sample_rate: int, n_channels: int, dtype: str, on_block: OnBlock
) -> Stream:
    own: Callable[[Any], Samples] = np.copy if dtype == "float32" else from_int16

    def callback(frames: Any, n: int, times: Any, status: Any) -> None:
        # PortAudio's thread: copy and return. No logging, no I/O, nothing that can wait.
        on_block(own(frames), bool(status.input_overflow))

    stream = _sounddevice().InputStream(
        device=device.index,
        samplerate=sample_rate,
        channels=n_channels,
        dtype=dtype,
        blocksize=round(sample_rate * BLOCK_S),
        latency=LATENCY_S,
        callback=callback,
    )
    opened = _PortAudioStream(stream, sample_rate, n_channels)
    try:
        stream.start()
    except BaseException:
        opened.close()
        raise
    return opened


def _usual_channels(device: Device) -> int:
    return device.n_channels if device.n_channels <= MAX_HARDWARE_CHANNELS else 2


def _why_not(device: Device, error: Exception) -> str:
    who = holder(device.name)
    if _code(error) == PA_DEVICE_UNAVAILABLE or who:
        by = who or "another program"
        return (
            f"{device.name!r} is held by {by}: stop it, or listen through the sound server "
            "that holds it (audio.device = its name)"
        )
    return f"{device.name!r} cannot be opened: {error}: see `fieldstation devices`"


def _code(error: Exception) -> int | None:
    return error.args[1] if len(error.args) > 1 else None


def _sounddevice() -> Any:
    # Imported when first needed: it loads PortAudio, which opens every device it can find.
    try:
        import sounddevice
    except OSError as error:
        raise DeviceNotFound(
            f"no microphone: {error}: install it (sudo apt install libportaudio2)"
        ) from error
    except Exception as error:
        if type(error).__name__ != "PortAudioError":  # the class is gone with its module
            raise
        raise DeviceNotFound(
            f"no microphone: {error}: see whether ALSA or the sound server works (arecord -l)"
        ) from error
    return sounddevice
