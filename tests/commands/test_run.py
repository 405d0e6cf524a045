"""`fieldstation run` from a recording to rows, with a real broker, and what it refuses."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fieldstation.audio.devices import DeviceNotFound
from fieldstation.audio.source import ignore_wait
from fieldstation.bundle import Bundle
from fieldstation.cli import command_parser
from fieldstation.commands.run import _opener
from fieldstation.config import load, with_option
from tests.commands.conftest import RATE, Run, needs_mosquitto
from tests.onnx_models import tone


def rows(state: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(state / "log.db") as log:
        found = log.execute(
            "SELECT scientific_name, started_local FROM detections ORDER BY started_at"
        )
        return found.fetchall()


@needs_mosquitto
def test_a_recording_ends_as_rows_in_the_log_and_twice_as_the_same(
    cli: Run, tones: Bundle, recording: Path, state: Path
) -> None:
    """Events, receipts and clips are all done when it exits 0; a second run adds nothing."""
    for _ in range(2):
        ended = cli("run", "--source", recording, "--bundle", tones.path, "--name", "hedge")
        assert ended.returncode == 0, ended.stderr
    assert [name for name, _ in rows(state)] == ["Fringilla coelebs", "Parus major"]
    assert all(at.startswith("2026-05-01T04:12:") for _, at in rows(state))
    with sqlite3.connect(state / "station.db") as station:
        waiting = station.execute("SELECT count(*) FROM outbox WHERE confirmed_at IS NULL")
        assert waiting.fetchone() == (0,)
        clips = station.execute("SELECT clip_state, clip_file FROM events").fetchall()
    assert {clip_state for clip_state, _ in clips} == {"written"}
    assert all((state / "clips" / file).stat().st_size > 10_000 for _, file in clips)
    asked = cli("detections", "--species", "tit", "--format", "jsonl")
    (row,) = map(json.loads, asked.stdout.splitlines())
    assert (row["common_name"], row["state"], row["station"]) == ("Great Tit", "logged", "hedge")
    covered = cli("coverage", "--since", "2026-05-01", "--until", "2026-05-02", "--format", "jsonl")
    heard = [r for r in map(json.loads, covered.stdout.splitlines()) if r["state"] == "heard"]
    assert [(r["station"], r["seconds"]) for r in heard] == [("hedge", 20.0)]


@needs_mosquitto
def test_trace_says_why_a_window_gave_nothing(cli: Run, tones: Bundle, recording: Path) -> None:
    """Every window has its line."""
    ended = cli("run", "--source", recording, "--bundle", tones.path, "--trace")
    lines = [line for line in ended.stdout.splitlines() if "no bird" in line]
    assert len(lines) > 20


@needs_mosquitto
def test_events_wait_while_the_broker_is_away_and_are_shown_as_waiting(
    cli: Run, tones: Bundle, recording: Path, state: Path, tmp_path: Path
) -> None:
    """A broker that is not there costs nothing: asked to stop, the station keeps its outbox."""
    command = [
        *(sys.executable, "-m", "fieldstation", "run", "--state", str(state), "--name", "hedge"),
        *(
            "--source",
            str(recording),
            "--bundle",
            str(tones.path),
            "--broker",
            "mqtt://127.0.0.1:9",
        ),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as station:
        wait_for_waiting(state, 3)
        station.send_signal(signal.SIGTERM)
        said, _ = station.communicate(timeout=30)
    assert station.returncode == 130, said
    asked = cli("detections", "--format", "jsonl")
    states = [json.loads(line)["state"] for line in asked.stdout.splitlines()]
    assert states == ["waiting", "waiting"], asked.stderr
    # At home again, the same outbox goes out, before the source has anything new.
    assert (
        cli("run", "--source", recording, "--bundle", tones.path, "--name", "hedge").returncode == 0
    )
    assert len(rows(state)) == 2


def n_waiting(database: Path) -> int:
    """Return how many messages an outbox has; none while its station is still making it."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as station:
            return int(station.execute("SELECT count(*) FROM outbox").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for_waiting(state: Path, n: int) -> None:
    """Wait until so many messages stand in the outbox."""
    ends_at = time.monotonic() + 30
    while time.monotonic() < ends_at:
        if n_waiting(state / "station.db") >= n:
            return
        time.sleep(0.1)
    raise AssertionError(f"fewer than {n} messages in the outbox of {state}")


@needs_mosquitto
def test_standard_input_is_heard_to_its_end(cli: Run, tones: Bundle, state: Path) -> None:
    """16-bit PCM through a pipe, as `arecord` gives it."""
    samples = np.concatenate([np.zeros(RATE), tone(2_000, 2, RATE), np.zeros(2 * RATE)])
    pcm = (samples * 32_767).astype("<i2").tobytes()
    command = [
        *(sys.executable, "-m", "fieldstation", "run", "--source", "-", "--rate", str(RATE)),
        *("--bundle", str(tones.path), "--state", str(state)),
    ]
    ended = subprocess.run(command, input=pcm, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [name for name, _ in rows(state)] == ["Fringilla coelebs"]


@needs_mosquitto
def test_a_bad_file_in_a_folder_is_reported_and_passed_over(
    cli: Run, tones: Bundle, recording: Path, state: Path, tmp_path: Path
) -> None:
    """What cannot be heard is named; the rest is heard."""
    folder = tmp_path / "night"
    folder.mkdir()
    (folder / "a_broken.wav").write_bytes(b"RIFF not really")
    (folder / "b.flac").write_bytes(recording.read_bytes())
    ended = cli("run", "--source", folder, "--bundle", tones.path)
    assert ended.returncode == 0, ended.stderr
    assert "a_broken.wav" in ended.stdout
    assert len(rows(state)) == 2


def check_refusal(ended: subprocess.CompletedProcess[str], *said: str) -> None:
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    for text in said:
        assert text in ended.stderr


def test_bad_input_is_refused_in_one_line(
    cli: Run, here: Run, tones: Bundle, recording: Path, tmp_path: Path
) -> None:
    """Unknown key, missing bundle, no such file, an empty file, options that exclude each other."""
    config = tmp_path / "bad.toml"
    config.write_text("[station]\nnaem = 'x'\n")
    check_refusal(cli("run", "--demo", "--config", config), "station.naem", "station.name")
    check_refusal(here("run", "--demo", "--bundle", "none"), "'none'", "bundle.json")
    check_refusal(
        here("run", "--source", tmp_path / "none.wav", "--bundle", tones.path), "none.wav"
    )
    empty = tmp_path / "empty.wav"
    empty.touch()
    check_refusal(here("run", "--source", empty, "--bundle", tones.path), "empty.wav")
    check_refusal(here("run", "--demo", "--source", recording), "--demo and --source")
    check_refusal(here("run", "--source", recording, "--speed", "fast"), "'fast'")
    check_refusal(here("run", "--source", recording, "--rate", "8000"), "--source -")


def test_options_are_checked_like_settings_and_before_anything_is_written(
    here: Run, tones: Bundle, recording: Path, state: Path
) -> None:
    """What the file may not say the command line may not say either; no password is repeated."""
    play = ("run", "--source", recording, "--bundle", tones.path)
    for arguments, said in (
        (("--name", "a/b"), "'a/b'"),
        (("--channel", "-1"), "-1"),
        (("--speed", "1e-9"), "'1e-9'"),
        (("--source", "-", "--channels", "100000"), "--channels is 100000; 1 to 64"),
        (("--broker", "mqtt://a b"), "mqtt://a b"),
        (("--wait",), "--wait is for a microphone"),
        (("--database", "birds.db"), "birds.db"),
    ):
        check_refusal(here(*play, *arguments), said)
    check_refusal(here("run", "--source", ""), "--source is ''")
    refused = here(*play, "--broker", "mqtt://owl:hoot@hub")
    check_refusal(refused, "owl:***@hub")
    assert "hoot" not in refused.stderr
    assert not (state / "station.db").exists()


def test_a_missing_password_file_leaves_no_databases(
    here: Run, tones: Bundle, recording: Path, state: Path, tmp_path: Path
) -> None:
    """The broker's access is read before the databases are made."""
    config = tmp_path / "hub.toml"
    config.write_text("[mqtt]\nurl = 'mqtt://hub'\npassword_file = '/nowhere'\n")
    play = ("run", "--source", recording, "--bundle", tones.path, "--config", config)
    check_refusal(here(*play), "/nowhere")
    assert not (state / "station.db").exists()


@needs_mosquitto
def test_a_process_without_standard_streams_runs(
    tones: Bundle, recording: Path, state: Path
) -> None:
    """Started with all three closed, as some supervisors do."""
    words = ["run", "--source", str(recording), "--bundle", str(tones.path), "--state", str(state)]
    shell = 'exec "$@" <&- >&- 2>&-'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "fieldstation", *words]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert len(rows(state)) == 2


def test_samples_that_are_not_finite_are_refused_and_nothing_is_made_up(
    cli: Run, tones: Bundle, tmp_path: Path
) -> None:
    """The first bad sample is named."""
    samples = np.zeros(5 * RATE, np.float32)
    samples[3 * RATE] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    check_refusal(cli("run", "--source", path, "--bundle", tones.path), "nan.wav", "144000")


def test_a_damaged_bundle_is_refused_before_anything_is_written(
    here: Run, tones: Bundle, recording: Path, state: Path, tmp_path: Path
) -> None:
    """A flipped byte in the encoder is told by its hash; no state is left half made."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tones.path.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    graph = bytearray((damaged / "encoder.onnx").read_bytes())
    graph[100] ^= 1
    (damaged / "encoder.onnx").write_bytes(graph)
    check_refusal(here("run", "--source", recording, "--bundle", damaged), "hashes to")
    assert not (state / "station.db").exists()


def test_a_database_from_a_newer_version_is_left_alone(
    here: Run, tones: Bundle, recording: Path, state: Path
) -> None:
    """It is named with its version, and not a byte of it changes."""
    state.mkdir()
    with closing(sqlite3.connect(state / "log.db")) as log, log:
        log.execute("PRAGMA journal_mode = WAL")
        log.execute("CREATE TABLE alembic_version (version_num TEXT)")
        log.execute("INSERT INTO alembic_version VALUES ('log_0999')")
    before = (state / "log.db").read_bytes()
    check_refusal(here("run", "--source", recording, "--bundle", tones.path), "log.db", "999")
    assert (state / "log.db").read_bytes() == before


@needs_mosquitto
def test_a_lock_at_the_start_is_no_reason_to_stay_away_for_good(
    cli: Run, tones: Bundle, recording: Path, state: Path
) -> None:
    """Exit 1, after which systemd tries again; exit 2 would end the service."""
    play = ("run", "--source", recording, "--bundle", tones.path)
    assert cli(*play).returncode == 0
    with closing(sqlite3.connect(state / "station.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = cli(*play)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith(
        "station.db is locked by another process: wait for it, or end it"
    )


def test_without_a_microphone_it_lists_what_there_is_and_offers_the_demo(
    cli: Run, tones: Bundle, state: Path
) -> None:
    """Exit 2 at once at a terminal; a name that fits nothing is the same on any machine."""
    ended = cli("run", "--device", "no such microphone", "--bundle", tones.path)
    check_refusal(ended, "microphone", "fieldstation run --demo")
    assert not state.exists()


@needs_mosquitto
def test_a_second_station_on_the_same_state_is_refused(
    cli: Run, tones: Bundle, recording: Path, state: Path
) -> None:
    """The lock names the process that holds it."""
    command = [
        *(sys.executable, "-m", "fieldstation", "run", "--state", str(state), "--speed", "1"),
        *("--source", str(recording), "--bundle", str(tones.path)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as station:
        assert station.stdout
        while "clips" not in station.stdout.readline():
            pass
        ended = cli("run", "--source", recording, "--bundle", tones.path)
        check_refusal(ended, f"process {station.pid}")
        station.send_signal(signal.SIGTERM)
        station.communicate(timeout=30)


def test_without_a_word_it_says_which_there_are() -> None:
    """Whoever types the bare name sees the commands and examples; it is still a mistake."""
    ended = subprocess.run(
        [sys.executable, "-m", "fieldstation"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "fieldstation run --demo" in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version_answer(arguments: list[str]) -> None:
    """Help has examples; the version is the package's."""
    ended = subprocess.run(
        [sys.executable, "-m", "fieldstation", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fieldstation" in ended.stdout
    assert "--help" not in arguments or "examples:" in ended.stdout


def test_a_microphone_is_refused_once_and_later_waited_for() -> None:
    """One that was there at the start and is gone after a night's sleep ends no station."""
    settings = with_option(load(None, {}), "--device", "audio.device", "no such microphone")
    open_source = _opener(command_parser("run").parse_args([]), settings)
    with pytest.raises(DeviceNotFound):
        open_source(ignore_wait)
    assert open_source(ignore_wait).description == "'no such microphone' (waiting for it)"
