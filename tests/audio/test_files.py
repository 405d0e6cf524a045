"""Files and folders: every format, in blocks, in order, and the broken ones told apart."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import soundfile

from fieldstation.audio.files import FileError, FileSource
from fieldstation.clock import parse_instant
from fieldstation.demo import RECORDING
from fieldstation.records import AudioChunk, Samples
from tests.audio.fakes import noise
from tests.formats import FORMATS

UTC = ZoneInfo("UTC")


class Skipped(list[tuple[Path, str]]):
    """What a source told of what it did not hear."""

    def __call__(self, path: Path, reason: str) -> None:
        self.append((path, reason))


def write(path: Path, samples: Samples, rate: int = 22_050, date: str = "", **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    n_channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", rate, n_channels, **options) as file:
        if date:
            file.date = date
        for start in range(0, len(samples), 4_096):  # libsndfile's Vorbis fails on long blocks
            file.write(samples[start : start + 4_096])
    return path


def source(path: Path, skipped: Skipped | None = None, **options: object) -> FileSource:
    on_skip = Skipped() if skipped is None else skipped
    asked = {"speed": None, "channel": None, "zone": UTC, "on_skip": on_skip}
    return FileSource(path, **(asked | options))  # type: ignore[arg-type]


def sound(chunks: list[AudioChunk]) -> Samples:
    return np.concatenate([chunk.samples for chunk in chunks])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.flac", {}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.mp3", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_every_format_is_read_in_blocks_as_it_is_at_once(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    """What the chunks hold is what libsndfile reads from the whole file."""
    path = write(tmp_path / name, noise(3 * 48_000 + 777), 48_000, **options)
    skipped = Skipped()
    chunks = list(source(path, skipped))
    expected, rate = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(sound(chunks), expected)
    assert {chunk.sample_rate for chunk in chunks} == {rate}
    assert max(chunk.samples.size for chunk in chunks) <= 48_000
    assert skipped == []


def test_chunks_know_their_file_and_place(tmp_path: Path) -> None:
    """Content hash, first sample, and the instant that follows from it."""
    path = write(tmp_path / "20190522_043015.wav", noise(60_000))
    chunks = list(source(path))
    began = parse_instant("2019-05-22T04:30:15Z")
    content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    for chunk, first_sample in zip(chunks, (0, 22_050, 44_100), strict=True):
        assert chunk.file is not None
        assert (chunk.file.path, chunk.file.content_hash) == (str(path), content_hash)
        assert chunk.file.first_sample == first_sample
        assert chunk.captured_at == began + first_sample * 1_000_000 // 22_050
        assert (chunk.gap, chunk.cause) == (0, "")


def test_the_demo_is_heard_at_its_time() -> None:
    """The recording that ships is named by its recorder, in the station's zone."""
    demo = source(RECORDING, zone=ZoneInfo("Europe/Zurich"))
    assert demo.recordings[0].started_at == parse_instant("2019-01-01T16:34:43+01:00")
    assert demo.total_s == pytest.approx(30, abs=1)
    assert "s), as fast as possible" in demo.description


def test_the_date_tag_names_the_start(tmp_path: Path) -> None:
    """Where the name tells nothing."""
    path = write(tmp_path / "robin.flac", noise(1_000), date="2019-05-22T04:30:15+02:00")
    assert next(iter(source(path))).captured_at == parse_instant("2019-05-22T02:30:15Z")


def test_a_channel_is_chosen_or_all_are_mixed(tmp_path: Path) -> None:
    """And one that is not there is an error that counts from one, as people do."""
    both = np.stack([noise(5_000, 1), noise(5_000, 2)], axis=1)
    path = write(tmp_path / "a.wav", both, subtype="FLOAT")
    np.testing.assert_array_equal(sound(list(source(path, channel=1))), both[:, 1])
    np.testing.assert_allclose(sound(list(source(path))), both.mean(axis=1), atol=1e-7)
    with pytest.raises(FileError, match=r"audio.channel is 3; .*a.wav has 2"):
        source(path, channel=2)


def test_a_folder_is_heard_in_order_of_time(tmp_path: Path) -> None:
    """Below it, too, whatever the files are called; what is not audio is no fault."""
    late = write(tmp_path / "a_20200101_120000.wav", noise(100, 1))
    early = write(tmp_path / "below" / "z_20190101_120000.flac", noise(100, 2))
    middle = write(tmp_path / "b_20190601_120000.WAV", noise(100, 3), format="WAV")
    (tmp_path / "recordings.csv").write_text("file,species\n")
    (tmp_path / "._a_20200101_120000.wav").write_bytes(b"resource fork")
    skipped = Skipped()
    chunks = list(source(tmp_path, skipped))
    assert [c.file and c.file.path for c in chunks] == [str(p) for p in (early, middle, late)]
    assert skipped == []


def test_a_bad_file_in_a_folder_is_told_and_passed_over(tmp_path: Path) -> None:
    """One line each, and everything else is heard."""
    good = write(tmp_path / "good.wav", noise(3_000))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.flac").write_text("this is not a recording\n" * 50)
    (tmp_path / "header.wav").write_bytes(good.read_bytes()[:44])
    bad = noise(3_000)
    bad[2_000] = np.inf
    write(tmp_path / "inf.wav", bad, subtype="FLOAT")
    skipped = Skipped()
    chunks = list(source(tmp_path, skipped))
    assert {chunk.file.path for chunk in chunks if chunk.file} == {
        str(good),
        str(tmp_path / "inf.wav"),
    }
    reasons = {path.name: reason for path, reason in skipped}
    assert set(reasons) == {"empty.wav", "text.flac", "header.wav", "inf.wav"}
    assert "0 bytes" in reasons["empty.wav"]
    assert "no audio file" in reasons["text.flac"]
    assert reasons["inf.wav"] == "sample 2000 is inf, no sound"
    assert not any("\n" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), (b"", "is empty: 0 bytes"), (b"no sound " * 99, "no audio file")],
)
def test_a_single_bad_file_is_an_error_of_one_line(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """Before anything is heard."""
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=reason) as caught:
        source(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_without_header_is_an_error_with_its_mend(tmp_path: Path) -> None:
    """Nobody but a person knows its rate: on standard input it can be said."""
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    with pytest.raises(FileError, match=r"no header .* --source - --rate"):
        source(tmp_path / "a.raw")


def test_a_recording_of_no_samples_is_empty(tmp_path: Path) -> None:
    """A header alone is no recording."""
    with pytest.raises(FileError, match="holds no sample"):
        source(write(tmp_path / "a.wav", noise(0)))


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    """Rather than a replay that did nothing."""
    with pytest.raises(FileError, match="holds no recording"):
        source(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_single_file_with_a_sample_that_is_no_sound_is_an_error(
    tmp_path: Path, value: float
) -> None:
    """It names the first such sample; what came before it was heard."""
    samples = noise(50_000)
    samples[40_000:40_003] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    chunks: list[AudioChunk] = []
    with pytest.raises(FileError, match=re.escape(f"cannot be heard: sample 40000 is {value}")):
        chunks.extend(source(path))
    np.testing.assert_array_equal(sound(chunks), samples[:40_000])


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_a_file_that_breaks_off_is_heard_to_its_end(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    """What is there is kept to the last good sample, what is missing is told."""
    path = write(tmp_path / name, noise(4 * 48_000), 48_000, **options)
    whole, _ = soundfile.read(path, dtype="float32")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    skipped = Skipped()
    heard = sound(list(source(path, skipped)))
    assert 0.4 * whole.size < heard.size < 0.7 * whole.size
    np.testing.assert_array_equal(heard[:-4_800], whole[: heard.size - 4_800])
    assert [p for p, _ in skipped] == [path]
    assert any(word in skipped[0][1] for word in ("breaks off", "cannot be decoded"))


def test_a_recorder_that_lost_power_is_heard(tmp_path: Path) -> None:
    """A WAV file whose size was never filled in claims nothing that could be missing."""
    path = write(tmp_path / "a.wav", noise(5_000))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    skipped = Skipped()
    assert sound(list(source(path, skipped))).size == 5_000
    assert skipped == []


def test_a_file_that_vanishes_is_an_error(tmp_path: Path) -> None:
    """Between the look at its header and its turn."""
    path = write(tmp_path / "a.wav", noise(5_000))
    waiting = source(path)
    path.unlink()
    with pytest.raises(FileError, match="cannot be read"):
        list(waiting)


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    """Done grows to all there is, over files that break off, too."""
    for name in ("a_20190101_000000.wav", "b_20190101_000100.wav"):
        write(tmp_path / name, noise(50_000))
    cut = tmp_path / "a_20190101_000000.wav"
    cut.write_bytes(cut.read_bytes()[:60_000])
    told: list[tuple[float, float]] = []
    playing = source(tmp_path, on_progress=lambda done, total: told.append((done, total)))
    list(playing)
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(playing.total_s)
    assert {total for _, total in told} == {playing.total_s}


def test_what_was_heard_before_is_passed_over(tmp_path: Path) -> None:
    """A replay that goes on asks by content, so a renamed file is known as well."""
    done = write(tmp_path / "a.wav", noise(1_000, 1))
    new = write(tmp_path / "b.wav", noise(1_000, 2))
    known = hashlib.sha256(done.read_bytes()).hexdigest()
    chunks = list(source(tmp_path, is_done=known.__eq__))
    assert [c.file and c.file.path for c in chunks] == [str(new)]


def test_real_time_comes_in_small_pieces(tmp_path: Path) -> None:
    """So that whoever listens hears no stutter; the sound is the same."""
    path = write(tmp_path / "a.wav", noise(4_410))
    chunks = list(source(path, speed=1.0))
    assert [chunk.samples.size for chunk in chunks] == [2_205, 2_205]
    np.testing.assert_array_equal(sound(chunks), sound(list(source(path))))


def test_closing_ends_a_wait(tmp_path: Path) -> None:
    """From another thread, in the middle of a wait of hours."""
    playing = source(write(tmp_path / "a.wav", noise(22_050)), speed=1e-5)
    threading.Timer(0.05, playing.close).start()
    assert list(playing) == []


def test_closing_ends_a_folder(tmp_path: Path) -> None:
    """No other file is begun."""
    for i in range(3):
        write(tmp_path / f"{i}.wav", noise(100, i))
    playing = source(tmp_path)
    chunks = []
    for chunk in playing:
        chunks.append(chunk)
        playing.close()
    assert len(chunks) == 1


def test_a_speed_of_nothing_is_refused(tmp_path: Path) -> None:
    """It would never end."""
    with pytest.raises(FileError, match="speed is 0"):
        source(write(tmp_path / "a.wav", noise(100)), speed=0)
