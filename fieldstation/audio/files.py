"""Files, folders and pipes as sources: pulled, never dropped."""

from __future__ import annotations

import hashlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from fieldstation.audio.mono import from_int16, to_mono
from fieldstation.audio.recordings import (
    Damaged,
    FileError,
    NoSound,
    Recording,
    find_recordings,
    inspect,
    read_blocks,
)
from fieldstation.audio.source import OnWait, ignore_wait
from fieldstation.clock import US_PER_S, Clock, SystemClock
from fieldstation.records import AudioChunk, FileOrigin, Samples
from fieldstation.words import counted

__all__ = ["FileError", "FileSource", "OnProgress", "OnSkip", "StandardInput"]

BLOCK_S = 1.0
"""Sound per chunk at full speed: long enough that Python's share is small"""
PACED_BLOCK_S = 0.1
"""Sound per chunk in real time, and the longest wait before `close` is noticed"""
HASH_BLOCK = 1 << 20
MOST_CHANNELS = 64
"""Of standard input; as many as `audio.channel` may choose from"""

OnSkip = Callable[[Path, str], None]
"""Told a file and what of it is not heard, and why"""
OnProgress = Callable[[float, float], None]
"""Told seconds of sound done, and in all"""


class FileSource:
    """A recording, or a folder of them in order of time."""

    live = False

    def __init__(
        self,
        path: Path,
        speed: float | None,
        channel: int | None,
        on_skip: OnSkip,
        zone: ZoneInfo,
        on_progress: OnProgress | None = None,
        is_done: Callable[[str], bool] | None = None,
    ) -> None:
        """Look at what there is; nothing is read but headers.

        Args:
            path: a file, or a folder with files in it or below.
            speed: 1 plays in real time, 2 twice as fast; None as fast as chunks are taken.
            channel: index from 0 of the channel to hear; None mixes down.
            on_skip: told what is not heard. Of a folder: each file that cannot be, and why. Of
                any file that is damaged further on: the part behind the damage.
            zone: of times in names and tags that name none.
            on_progress: told how far it is after each chunk.
            is_done: asked with a file's content hash whether to pass it over.

        Raises:
            FileError: there is no such file, it is no audio or holds none, has no such channel,
                or the folder has nothing to hear.
        """
        if speed is not None and not speed > 0:
            raise FileError(f"speed is {speed}; above 0, or max")
        self._path = path
        self._speed = speed
        self._channel = channel
        self._on_skip = on_skip
        self._on_progress = on_progress
        self._is_done = is_done
        self._closed = threading.Event()
        self.recordings = self._survey(zone)
        """What will be played, in order"""
        self.total_s = sum(recording.duration_s for recording in self.recordings)
        self._done_s = 0.0

    @property
    def description(self) -> str:
        """Return the path, how much there is, and how fast it is played."""
        files = f"{counted(len(self.recordings), 'recording')}, " if self._path.is_dir() else ""
        pace = "as fast as possible" if self._speed is None else f"at speed {self._speed:g}"
        return f"{self._path} ({files}{self.total_s:.0f} s), {pace}"

    @property
    def problem(self) -> str:
        """Return nothing: a file that cannot be heard is an error or is passed over."""
        return ""

    def close(self) -> None:
        """End the iteration within a chunk."""
        self._closed.set()

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield each recording's chunks.

        Raises:
            FileError: a single file turns out to hold nothing that can be heard, or samples
                that are no sound.
        """
        self._done_s = 0.0
        for recording in self.recordings:
            before_s = self._done_s
            yield from self._heard(recording)
            if self._closed.is_set():
                return
            self._progress(before_s + recording.duration_s)

    def _survey(self, zone: ZoneInfo) -> list[Recording]:
        if not self._path.is_dir():
            recording = inspect(self._path, zone)
            self._check_channel(recording)
            return [recording]
        found = find_recordings(self._path, zone, self._on_skip)
        recordings = [recording for recording in found if self._has_channel(recording)]
        if not recordings:
            raise FileError(f"{self._path} holds no recording that can be heard: name another")
        return recordings

    def _has_channel(self, recording: Recording) -> bool:
        try:
            self._check_channel(recording)
        except FileError as error:
            self._on_skip(recording.path, str(error))
            return False
        return True

    def _check_channel(self, recording: Recording) -> None:
        if self._channel is not None and self._channel >= recording.n_channels:
            raise FileError(
                f"audio.channel is {self._channel + 1}; {recording.path} has "
                f"{recording.n_channels}: choose one of them, or 0 to mix them"
            )

    def _heard(self, recording: Recording) -> Iterator[AudioChunk]:
        """Yield a recording's chunks; what of it cannot be heard is told to who asked for it."""
        n_chunks = 0
        try:
            for chunk in self._play(recording):
                n_chunks += 1
                yield chunk
        except Damaged as damage:
            unusable = n_chunks == 0 or isinstance(damage, NoSound)
            if unusable and not self._path.is_dir():
                raise FileError(f"{recording.path} cannot be heard: {damage}") from damage
            self._on_skip(recording.path, str(damage))

    def _play(self, recording: Recording) -> Iterator[AudioChunk]:
        content_hash = self._hash(recording.path)
        if content_hash is None or (self._is_done and self._is_done(content_hash)):
            return
        block_s = BLOCK_S if self._speed is None else PACED_BLOCK_S
        n_per_block = max(1, round(block_s * recording.sample_rate))
        began = time.monotonic()
        first_sample = 0
        for frames in read_blocks(recording, n_per_block):
            played_s = (first_sample + len(frames)) / recording.sample_rate
            if not self._keep_pace(began, played_s):
                return
            yield self._chunk(recording, content_hash, first_sample, frames)
            first_sample += len(frames)
            self._progress(self._done_s + len(frames) / recording.sample_rate)

    def _chunk(
        self, recording: Recording, content_hash: str, first_sample: int, frames: Samples
    ) -> AudioChunk:
        samples, n_clipped = to_mono(frames, self._channel)
        return AudioChunk(
            samples=samples,
            sample_rate=recording.sample_rate,
            captured_at=recording.started_at
            + round(first_sample * US_PER_S / recording.sample_rate),
            n_clipped=n_clipped,
            file=FileOrigin(str(recording.path), content_hash, first_sample),
        )

    def _keep_pace(self, began: float, played_s: float) -> bool:
        """Wait until sound that began at `began` would have come so far; False when closed."""
        if self._speed is not None:
            until = began + played_s / self._speed
            while (left_s := until - time.monotonic()) > 0:
                if self._closed.wait(min(left_s, PACED_BLOCK_S)):
                    return False
        return not self._closed.is_set()

    def _hash(self, path: Path) -> str | None:
        """Return the sha256 of a file's bytes, or None when closed meanwhile.

        Raises:
            Damaged: it cannot be read.
        """
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(HASH_BLOCK):
                    digest.update(block)
                    if self._closed.is_set():
                        return None
        except OSError as error:
            raise Damaged(f"it cannot be read: {error.strerror or error}") from error
        return digest.hexdigest()

    def _progress(self, done_s: float) -> None:
        self._done_s = done_s
        if self._on_progress:
            self._on_progress(done_s, self.total_s)


class StandardInput:
    """16-bit little-endian PCM from a pipe: `arecord -f S16_LE … | fieldstation run --source -`.

    Pulled, like a file: what is not taken waits in the pipe, and the pipe's writer with it. So
    it is not live; it is stamped from the clock at its first sample and from counting after
    that, and its end ends the iteration.
    """

    live = False

    def __init__(
        self,
        rate: int,
        n_channels: int = 1,
        channel: int | None = None,
        clock: Clock | None = None,
        on_wait: OnWait = ignore_wait,
        descriptor: int = 0,
    ) -> None:
        """Say what comes; nothing is read yet.

        Args:
            rate: hertz.
            n_channels: interleaved channels.
            channel: index from 0 of the channel to hear; None mixes down.
            clock: names the first instant.
            on_wait: told `microphone` while the pipe is empty.
            descriptor: the file descriptor to read; 0 is standard input.

        Raises:
            FileError: it is a terminal, or the rate or the channels make no sense.
        """
        if os.isatty(descriptor):
            raise FileError("--source - is a terminal: pipe 16-bit PCM into it")
        if not 1_000 <= rate <= 768_000:
            raise FileError(f"--rate is {rate}; 1000 to 768000 Hz")
        if not 1 <= n_channels <= MOST_CHANNELS:
            raise FileError(f"--channels is {n_channels}; 1 to {MOST_CHANNELS}")
        if channel is not None and channel >= n_channels:
            raise FileError(
                f"standard input has {n_channels} channels, of which number {channel + 1} is to be "
                "heard: set another number"
            )
        self._rate = rate
        self._n_channels = n_channels
        self._channel = channel
        self._clock = clock or SystemClock()
        self._on_wait = on_wait
        self._descriptor = descriptor
        self._closed = threading.Event()

    @property
    def description(self) -> str:
        """Return what is expected on the pipe."""
        return f"standard input, {self._rate} Hz, {self._n_channels} channel(s), 16-bit PCM"

    @property
    def problem(self) -> str:
        """Return nothing: a pipe gives sound or ends."""
        return ""

    def close(self) -> None:
        """End the iteration soon."""
        self._closed.set()

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield chunks until the pipe ends; half a frame at the end is no sound."""
        started_at, n_heard = None, 0
        for frames in self._frames():
            if started_at is None:
                heard_us = round(len(frames) * US_PER_S / self._rate)
                started_at = self._clock.wall() - heard_us
            samples, n_clipped = to_mono(frames, self._channel)
            captured_at = started_at + round(n_heard * US_PER_S / self._rate)
            n_heard += len(frames)
            yield AudioChunk(samples, self._rate, captured_at, n_clipped=n_clipped)

    def _frames(self) -> Iterator[Samples]:
        """Yield float32 [n, channels], up to `PACED_BLOCK_S` at once."""
        n_bytes = 2 * self._n_channels
        wanted = n_bytes * max(1, round(PACED_BLOCK_S * self._rate))
        held = b""
        while (more := self._read(wanted - len(held))) is not None:
            held += more
            whole = len(held) - len(held) % n_bytes
            if whole == wanted or (not more and whole):
                frames = np.frombuffer(held[:whole], "<i2").reshape(-1, self._n_channels)
                yield from_int16(frames)
                held = held[whole:]
            if not more:
                return

    def _read(self, n: int) -> bytes | None:
        """Return up to n bytes, none at the end of file; None when closed."""
        while not self._closed.is_set():
            # Asked first: a read would hold `close` up for as long as the pipe is empty.
            if select.select([self._descriptor], [], [], 0.25)[0]:
                return os.read(self._descriptor, n)
            self._on_wait("microphone")
        return None
