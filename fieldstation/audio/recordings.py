"""Audio files: finding them, and reading one in blocks however long it is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import soundfile

from fieldstation.audio.mono import is_sound
from fieldstation.audio.start_times import StartSource, start_time
from fieldstation.errors import MendableError
from fieldstation.records import Samples

LOSSLESS = {".wav", ".wave", ".w64", ".rf64", ".flac", ".aif", ".aiff", ".caf", ".au"}
LOSSY = {".ogg", ".oga", ".opus", ".mp3"}
SUFFIXES = LOSSLESS | LOSSY
"""What is taken for a recording in a folder; a file that is named itself may be called anything"""


class FileError(MendableError):
    """The file that was asked for cannot be heard; the text says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio file, as its header describes it."""

    path: Path
    sample_rate: int
    n_channels: int
    n_frames: int
    """Samples per channel; a damaged file holds fewer than it says"""
    started_at: int
    """Instant of the first sample"""
    start_source: StartSource

    @property
    def duration_s(self) -> float:
        """Return its length in seconds."""
        return self.n_frames / self.sample_rate


def inspect(path: Path, zone: ZoneInfo) -> Recording:
    """Read a file's header.

    Raises:
        FileError: missing, not a file, unreadable, empty, or not audio.
    """
    try:
        if not path.is_file():
            raise FileError(f"{path} is {'no file' if path.exists() else 'missing'}: name a file")
        if path.stat().st_size == 0:
            raise FileError(f"{path} is empty: 0 bytes: name another")
        with path.open("rb"):  # libsndfile says only "System error"
            pass
        with soundfile.SoundFile(path) as file:
            n_frames, sample_rate, n_channels = file.frames, file.samplerate, file.channels
            date_tag = file.copy_metadata().get("date", "")
        started_at, start_source = start_time(path, date_tag, n_frames / sample_rate, zone)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    except TypeError as error:  # soundfile asks so for what only a person knows
        raise FileError(
            f"{path} has no header that tells its rate: name another, or pipe it: --source - --rate"
        ) from error
    except soundfile.LibsndfileError as error:
        raise FileError(
            f"{path} is no audio file, or a damaged one: {error.error_string.rstrip('.')}: "
            "name another"
        ) from error
    if n_frames <= 0:
        raise FileError(f"{path} is empty: it holds no sample: name another")
    return Recording(path, sample_rate, n_channels, n_frames, started_at, start_source)


def find_recordings(
    folder: Path, zone: ZoneInfo, on_skip: Callable[[Path, str], None]
) -> list[Recording]:
    """Return a folder's recordings, with those below it, in order of time.

    Args:
        on_skip: told each file that is called audio and is none, and why.

    Hidden files are passed over: macOS leaves a `._` beside each file it copies.
    """
    found = []
    for path in _audio_files(folder):
        try:
            found.append(inspect(path, zone))
        except FileError as error:
            on_skip(path, str(error))
    return sorted(found, key=lambda recording: (recording.started_at, recording.path))


def _audio_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name)


class Damaged(Exception):
    """The rest of a file cannot be heard; what was read before it can. The text says why."""


class NoSound(Damaged):
    """A sample is NaN, infinite or absurd: who wrote it is broken, so may be what came before."""


def read_blocks(recording: Recording, n_per_block: int) -> Iterator[Samples]:
    """Yield a file's frames, float32 [n ≤ n_per_block, channels], one block in memory at once.

    Raises:
        Damaged: after the last good frame, where the file breaks off, cannot be decoded, or
            holds a sample that is no sound.
    """
    try:
        file = ForwardFile(recording.path)
    except (OSError, soundfile.LibsndfileError) as error:
        raise Damaged(f"it cannot be opened any more: {error}") from error
    n_read = 0
    with file:
        while True:
            block = np.empty((n_per_block, file.channels), np.float32)
            n, fault = _fill(file, block, n_read)
            n_good = _n_good(block[:n])
            if n_good:
                yield block[:n_good]
            n_read += n_good
            if n_good < n:
                raise NoSound(f"sample {n_read} is {_first_bad(block[n_good]):.3g}, no sound")
            if fault:
                raise Damaged(fault)
            if n < n_per_block:
                break
        shortfall = _shortfall(file, n_read)
    if shortfall:
        raise Damaged(shortfall)


class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is only read onwards.

    soundfile seeks to where it is after every read of a file that can seek. In an MP3 that
    starts the decoder anew: the samples behind it come out a little different (and, by an index
    that is off, from somewhere else), and at the end of a cut FLAC it fails.
    """

    def seekable(self) -> bool:
        return False


def _fill(file: soundfile.SoundFile, block: Samples, n_read: int) -> tuple[int, str]:
    """Read a block; return how many frames came and what stopped them, empty if nothing did."""
    try:
        return len(file.read(out=block)), ""
    except soundfile.LibsndfileError as error:
        # The frames before the fault are in the block; libsndfile's position says how many.
        n = min(max(_position(file) - n_read, 0), len(block))
        at_s = (n_read + n) / file.samplerate
        return n, f"it cannot be decoded after {at_s:.2f} s: {error.error_string.rstrip('.')}"


def _position(file: soundfile.SoundFile) -> int:
    try:
        return int(file.tell())
    except soundfile.LibsndfileError:
        return 0


def _n_good(block: Samples) -> int:
    """Return how many frames stand before the first that is no sound."""
    good = is_sound(block)
    return len(block) if good.all() else int(good.argmin())


def _first_bad(frame: Samples) -> float:
    return float(frame[~is_sound(frame[:, None])][0])


def _shortfall(file: soundfile.SoundFile, n_read: int) -> str | None:
    """Return what a file that ended says it should hold besides, or None."""
    if n_read < file.frames:
        return f"it breaks off: {n_read} of {file.frames} samples are there"
    # libsndfile mends the count of a WAV file that was cut and only mentions it, likewise Ogg.
    # A recorder that loses power leaves 0 or 2³²-1 as its size: that is not a claim.
    cut = re.search(r"^data\s*:\s*(\d+)\s*\(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if cut and 0 < int(cut[1]) < 2**32 - 2**20 and int(cut[1]) > int(cut[2]):
        return f"it breaks off: {cut[2]} of {cut[1]} bytes of sound are there"
    if "Last page lacks an end-of-stream bit" in file.extra_info:
        return f"it breaks off after {n_read / file.samplerate:.2f} s: its last page is missing"
    return None
