"""Recordings decoded once, to one rate, into one memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trainer.data.recordings import DataError, Recording, file_hash

if TYPE_CHECKING:
    from soundfile import SoundFile

FORMAT = 1
"""Part of the cache's key: raise it when decoding changes"""
BLOCK = 1 << 16
"""Samples of each channel that are read at once: half a megabyte of stereo"""

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class AudioSet:
    """Decoded recordings, end to end in one array.

    float32, not int16: a network that hears the noise of a conversion in training and none in
    the field hears two different silences.
    """

    recordings: tuple[Recording, ...]
    """Those that could be decoded"""
    samples: Samples
    """float32 [total], memory-mapped, read-only"""
    starts: NDArray[np.int64]
    """First sample of each recording, and the end: [recordings + 1]"""
    sample_rate: int
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason) of those that could not"""

    def of(self, index: int) -> Samples:
        """Return the samples of one recording."""
        return self.samples[self.starts[index] : self.starts[index + 1]]

    @property
    def seconds(self) -> float:
        """Return how long all recordings are together."""
        return len(self.samples) / self.sample_rate


def decode(path: Path, sample_rate: int) -> Samples:
    """Return a file as mono float32 at `sample_rate`.

    Raises:
        DataError: missing, unreadable for whatever reason, empty, or not finite.
    """
    try:
        if not path.is_file():
            raise DataError("no file" if path.exists() else "it is missing")
        samples = _read(path, sample_rate)
    except (OSError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        # soundfile's own errors are RuntimeErrors; a headerless file it asks by a TypeError for
        # what only a person knows
        raise DataError(f"{path.name} cannot be decoded: {error}") from error
    if not len(samples):
        raise DataError(f"{path.name} is empty")
    if not np.isfinite(samples).all():
        raise DataError(f"{path.name} holds samples that are not finite")
    return samples


def _read(path: Path, sample_rate: int) -> Samples:
    """Read block by block: whole, an hour of stereo takes six times the memory of what is kept.

    The samples are those of `soundfile.read` and `soxr.resample`, to the bit.
    """
    # Only who decodes needs it: a lent machine trains from what was decoded elsewhere.
    from fieldstation.audio.recordings import ForwardFile

    kept = bytearray()
    with ForwardFile(path) as file:
        blocks = _mono_blocks(file)
        if file.samplerate != sample_rate:
            blocks = _resampled(blocks, file.samplerate, sample_rate)
        for block in blocks:
            kept += block.tobytes()
    return np.frombuffer(kept, np.float32)


def _mono_blocks(file: SoundFile) -> Iterator[Samples]:
    """Yield a file's channels as one, float32 [`BLOCK`], the last block shorter and maybe empty."""
    frames = np.empty((BLOCK, file.channels), np.float32)
    n = BLOCK
    while n == BLOCK:
        n = len(file.read(out=frames))
        yield frames[:n].mean(axis=1)


def _resampled(blocks: Iterable[Samples], from_rate: int, to_rate: int) -> Iterator[Samples]:
    """Yield blocks of which only the last is shorter than `BLOCK` at another rate."""
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block, last=len(block) < BLOCK)


def load_audio(recordings: Sequence[Recording], sample_rate: int, cache: Path) -> AudioSet:
    """Return the recordings' audio, decoded now or found in `cache`.

    The cache is keyed by the content of the files; a file that cannot be decoded is skipped and
    named in `skipped`.

    Raises:
        DataError: not one recording could be decoded.
    """
    hashes = [file_hash(r.path) for r in recordings]
    key = hashlib.sha256("\n".join([str(FORMAT), str(sample_rate), *hashes]).encode())
    place = cache / f"audio-{sample_rate}-{key.hexdigest()[:16]}"
    if not place.with_suffix(".json").is_file():
        _fill(place, recordings, sample_rate)
    index = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
    skipped = {int(at): reason for at, reason in index["skipped"].items()}
    kept = tuple(r for at, r in enumerate(recordings) if at not in skipped)
    if not kept:
        raise DataError(f"none of {len(recordings)} recordings could be decoded: {skipped}")
    return AudioSet(
        recordings=kept,
        samples=np.memmap(place.with_suffix(".f32"), np.float32, mode="r"),
        starts=np.asarray(index["starts"], np.int64),
        sample_rate=sample_rate,
        skipped=tuple((recordings[at].file, reason) for at, reason in skipped.items()),
    )


def _fill(place: Path, recordings: Sequence[Recording], sample_rate: int) -> None:
    """Decode all recordings; the index comes last, so a broken-off cache is no cache.

    Two trainings that begin at once both decode: each in a folder of its own.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent, prefix="decoding-") as own:
        samples, index = Path(own, "samples"), Path(own, "index")
        with samples.open("wb") as out:
            found = _write_all(out, recordings, sample_rate)
        index.write_text(json.dumps(found), encoding="utf-8")
        samples.replace(place.with_suffix(".f32"))
        index.replace(place.with_suffix(".json"))


def _write_all(
    out: BinaryIO, recordings: Sequence[Recording], sample_rate: int
) -> dict[str, list[int] | dict[int, str]]:
    """Write the recordings' samples end to end; return where they begin, and what was skipped."""
    starts, skipped = [0], {}
    for at, recording in enumerate(tqdm(recordings, desc="decoding", unit="file", disable=None)):
        try:
            samples = decode(recording.path, sample_rate)
        except DataError as error:
            skipped[at] = str(error)
            continue
        out.write(samples.data)
        starts.append(starts[-1] + len(samples))
    return {"starts": starts, "skipped": skipped}
