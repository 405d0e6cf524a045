"""`fieldstation replay`: offline, idempotent, resumable."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import soundfile

from fieldstation.bundle import Bundle
from tests.commands.conftest import RATE, Run
from tests.onnx_models import tone


@pytest.fixture
def season(tmp_path: Path) -> Path:
    """Return a folder with three recordings of a Chaffinch, an hour apart, and a broken one."""
    folder = tmp_path / "season"
    folder.mkdir()
    for hour in (4, 5, 6):
        samples = tone(2_000, 2 + hour / 10, RATE)
        soundfile.write(folder / f"hedge_20260501_{hour:02}0000.flac", samples, RATE)
    (folder / "broken_20260501_070000.wav").write_bytes(b"RIFF")
    return folder


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as log:
        return int(log.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_folder_is_replayed_once(here: Run, tones: Bundle, season: Path, tmp_path: Path) -> None:
    """The bad file is named and counted; a second replay passes over what is done."""
    database = tmp_path / "season.db"
    url = f"sqlite:///{database}"
    first = here("replay", season, "--database", url, "--bundle", tones.path, "--name", "hedge")
    assert first.returncode == 1
    assert "broken_20260501_070000.wav" in first.stderr
    assert "3 recordings replayed, 0 already in the log, 1 not heard whole" in first.stdout
    assert (count(database, "detections"), count(database, "coverage")) == (3, 3)
    second = here("replay", season, "--database", url, "--bundle", tones.path, "--name", "hedge")
    assert "0 recordings replayed, 3 already in the log" in second.stdout
    asked = here("detections", "--database", url, "--format", "jsonl")
    told = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [row["started_at"][:13] for row in told] == [f"2026-05-01T0{h}" for h in (6, 5, 4)]


def test_a_replay_that_was_interrupted_goes_on(
    here: Run, tones: Bundle, season: Path, tmp_path: Path
) -> None:
    """What is committed is passed over; what was not yet marked is heard again, without doubles."""
    database = tmp_path / "season.db"
    options = ("--database", f"sqlite:///{database}", "--bundle", tones.path, "--name", "hedge")
    here("replay", season, *options)
    with closing(sqlite3.connect(database)) as log, log:
        log.execute("DELETE FROM replays WHERE rowid = (SELECT min(rowid) FROM replays)")
    again = here("replay", season, *options)
    assert "1 recording replayed, 2 already in the log" in again.stdout
    assert "1 event, 0 of them new" in again.stdout
    assert (count(database, "detections"), count(database, "coverage")) == (3, 3)


def test_a_recording_is_marked_as_done_with_all_its_events(
    here: Run, tones: Bundle, season: Path, tmp_path: Path
) -> None:
    """Also with a bird that sings to its end: broken off just then, it would be lost for ever."""
    database = tmp_path / "season.db"
    here("replay", season, "--database", f"sqlite:///{database}", "--bundle", tones.path)
    with closing(sqlite3.connect(database)) as log:
        assert log.execute("SELECT n_events FROM replays").fetchall() == [(1,), (1,), (1,)]


def test_other_thresholds_are_another_analysis(
    here: Run, tones: Bundle, season: Path, tmp_path: Path
) -> None:
    """With changed settings a recording is heard again."""
    config = tmp_path / "strict.toml"
    config.write_text('[model]\nthresholds = { "Fringilla coelebs" = 0.9 }\n')
    options = ("--database", f"sqlite:///{tmp_path / 'a.db'}", "--bundle", tones.path)
    here("replay", season, *options)
    assert "3 recordings replayed" in here("replay", season, *options, "--config", config).stdout


def test_a_url_that_is_none_is_refused(here: Run, season: Path) -> None:
    """The mend is in the text."""
    ended = here("replay", season, "--database", "season.db")
    assert ended.returncode == 2
    assert "sqlite:///season.db" in ended.stderr
