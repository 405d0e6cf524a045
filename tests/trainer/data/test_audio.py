"""Recordings are decoded once."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from tests.formats import FORMATS
from tests.trainer.recordings import RATE, species_rows, tone, write_folder
from trainer.data.audio import BLOCK, decode, load_audio
from trainer.data.recordings import DataError, Recording, read_recordings


def test_samples_come_back_as_they_are(tmp_path: Path) -> None:
    """Each recording's samples stand in the joined array unchanged."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows()))
    audio = load_audio(recordings, RATE, tmp_path / "cache")
    for i, recording in enumerate(audio.recordings):
        np.testing.assert_array_equal(audio.of(i), decode(recording.path, RATE))
    assert audio.seconds == pytest.approx(8 * 4.0)


class Slow(tuple[Recording, ...]):
    """Recordings that run a task once, before one of them is decoded."""

    before: int
    task: Callable[[], object]
    n_times = 0

    def __iter__(self) -> Iterator[Recording]:
        self.n_times += 1
        is_decoding = self.n_times == 2  # the first time their bytes are hashed
        for at, recording in enumerate(super().__iter__()):
            if at == self.before and is_decoding:
                self.task()
            yield recording


def test_two_trainings_that_begin_at_once_hear_the_same(tmp_path: Path) -> None:
    """The second begins to write while the first does, and ends after it; neither hears zeros."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows()))
    cache = tmp_path / "cache"
    has_begun, may_go_on = threading.Event(), threading.Event()
    second = Slow(recordings)
    second.before, second.task = 0, lambda: (has_begun.set(), may_go_on.wait(10))
    other = threading.Thread(target=load_audio, args=(second, RATE, cache))
    first = Slow(recordings)
    first.before, first.task = 2, lambda: (other.start(), has_begun.wait(10))
    audio = load_audio(first, RATE, cache)
    heard = [audio.of(i).copy() for i in range(len(recordings))]
    may_go_on.set()
    other.join()
    for recording, samples in zip(recordings, heard, strict=True):
        np.testing.assert_array_equal(samples, decode(recording.path, RATE))
    assert sorted(path.suffix for path in cache.iterdir()) == [".f32", ".json"]


def test_a_second_load_decodes_nothing(tmp_path: Path) -> None:
    """The cache answers when a file of the same content cannot be decoded any more."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows()))
    first = load_audio(recordings, RATE, tmp_path / "cache")
    files = sorted((tmp_path / "cache").iterdir())
    before = [f.stat().st_mtime_ns for f in files]
    second = load_audio(recordings, RATE, tmp_path / "cache")
    assert [f.stat().st_mtime_ns for f in files] == before
    np.testing.assert_array_equal(first.samples, second.samples)


def test_a_corrupt_file_is_a_counted_skip(tmp_path: Path) -> None:
    """A damaged, an empty, a missing and a headerless file are left out and named."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows()))
    recordings[0].path.write_bytes(b"not audio")
    sf.write(recordings[1].path, np.zeros(0, np.float32), RATE)
    recordings[2].path.unlink()
    headerless = replace(recordings[3], path=tmp_path / "x.raw")
    headerless.path.write_bytes(b"no header")
    recordings = (*recordings[:3], headerless, *recordings[4:])
    audio = load_audio(recordings, RATE, tmp_path / "cache")
    assert audio.recordings == recordings[4:]
    assert [file for file, _ in audio.skipped] == [r.file for r in recordings[:4]]
    np.testing.assert_array_equal(audio.of(0), decode(recordings[4].path, RATE))


def test_nothing_decodable_is_an_error(tmp_path: Path) -> None:
    """A folder of damaged files cannot be trained on."""
    recordings = read_recordings(write_folder(tmp_path / "data", species_rows(1)))
    for recording in recordings:
        recording.path.write_bytes(b"not audio")
    with pytest.raises(DataError, match="none of 2 recordings"):
        load_audio(recordings, RATE, tmp_path / "cache")


def test_rate_and_channels_are_brought_to_ours(tmp_path: Path) -> None:
    """48 kHz stereo becomes 22,050 Hz mono of the same length and level."""
    at = np.arange(96_000) / 48_000
    sine = 0.5 * np.sin(2 * np.pi * 1000 * at)
    sf.write(tmp_path / "a.wav", np.stack([sine, sine], axis=1), 48_000)
    samples = decode(tmp_path / "a.wav", RATE)
    assert len(samples) == pytest.approx(2 * RATE, abs=2)
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


def write_noise(path: Path, n_frames: int, n_channels: int = 2, **options: str) -> Path:
    """Write noise at 48 kHz, a second at once: libsndfile's Vorbis dies of much more."""
    chance = np.random.default_rng(n_frames)
    with sf.SoundFile(path, "w", 48_000, n_channels, **options) as file:
        for first in range(0, n_frames, 48_000):
            shape = (min(48_000, n_frames - first), n_channels)
            file.write(0.1 * chance.standard_normal(shape, np.float32))
    return path


@pytest.mark.parametrize(("name", "options"), FORMATS)
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_blocks_are_what_the_whole_is(
    tmp_path: Path, name: str, options: dict[str, str], rate: int
) -> None:
    """Read and resampled in one go: the same to the bit, whatever is left for the last block.

    soundfile would seek after every block, which starts some decoders anew.
    """
    for n_frames in (100, 3 * BLOCK, 6 * BLOCK + 1):
        path = write_noise(tmp_path / name, n_frames, **options)
        whole, _ = sf.read(path, dtype="float32", always_2d=True)
        mono = whole.mean(axis=1)
        wanted = mono if rate == 48_000 else soxr.resample(mono, 48_000, rate, quality="HQ")
        np.testing.assert_array_equal(decode(path, rate), wanted)


def test_a_recording_is_never_whole_in_memory(tmp_path: Path) -> None:
    """What is kept is a small part of what is read, eight channels at more than twice the rate."""
    path = write_noise(tmp_path / "a.wav", 20 * 48_000, n_channels=8)
    decode(path, RATE)  # what is imported on the way is not of the recording
    tracemalloc.start()
    samples = decode(path, RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples.nbytes == 20 * RATE * 4
    assert peak < 8e6 < 20 * 48_000 * 8 * 4


def test_samples_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """One NaN would make every weight NaN."""
    samples = tone(1000, 1)
    samples[100] = np.nan
    sf.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        decode(tmp_path / "a.wav", RATE)
