"""A recording played into a microphone is heard as the same recording read from its file.

The microphone is PipeWire's null sink; the station behind it is `fieldstation run` as a user
starts it, with PortAudio, the embedded broker and the log. What it heard is read by strangers:
`mosquitto_sub` and `sqlite3`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fieldstation import demo
from fieldstation.bundle import find_bundle, load_bundle
from tests.onnx_models import make_tone_bundle, tone
from tests.system import sound
from tests.system.sound import SoundServer, sound_server

RATE = 48_000
PATIENCE_S = 120.0
US_PER_S = 1_000_000
FILE_NAME, FILE_BEGAN_S = "20260501_040000.wav", 1_777_608_000.0
"""A recorder's name of a file, and the instant that it tells"""
HOUR_S = 3_600
QUERY = "SELECT event_id, scientific_name, started_at FROM detections ORDER BY started_at"
CAPTURE = """
import sys
import sounddevice
taken = sounddevice.rec(int(sys.argv[2]), samplerate=48_000, channels=1, dtype="int16")
sounddevice.wait()
open(sys.argv[1], "wb").write(taken.tobytes())
"""

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(sound.why_not()), reason=sound.why_not() or ""),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}")
        for tool in ("mosquitto_sub", "sqlite3")
    ),
]


@dataclass(frozen=True)
class Heard:
    """An event as a stranger reads it."""

    id: str
    name: str
    started_s: float


@pytest.fixture(scope="module")
def server() -> Iterator[SoundServer]:
    """A sound server with a virtual microphone."""
    with sound_server(RATE) as running:
        yield running


def command(folder: Path, bundle: Path, *options: str) -> list[str]:
    """Return a station's command line, with settings written for it."""
    folder.mkdir()
    settings = folder / "settings.toml"
    settings.write_text(
        '[station]\nname = "ears"\ntimezone = "UTC"\n[mqtt]\nport = 0\n'
        f"[model]\nbundle = {json.dumps(str(bundle))}\n"
    )
    station = [sys.executable, "-m", "fieldstation", "run", "--config", str(settings)]
    return [*station, "--state", str(folder / "state"), *options]


@contextmanager
def listening(server: SoundServer, folder: Path, bundle: Path) -> Iterator[Path]:
    """Run a station on the microphone, with a subscriber; give the file of what that one sees."""
    with (folder.parent / "station.log").open("wb") as output:
        station = subprocess.Popen(
            command(folder, bundle),
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        server.wait_for_listener(lambda: station.poll() is None)
        seen = folder / "seen.jsonl"
        with subscriber(folder / "state" / "broker" / "reader.json", seen):
            yield seen
        station.send_signal(signal.SIGTERM)
        assert station.wait(PATIENCE_S) == 0
    finally:
        print((folder.parent / "station.log").read_text())
        station.kill()
        station.wait()


@contextmanager
def subscriber(access: Path, seen: Path) -> Iterator[None]:
    """Run mosquitto_sub on the station's own broker, writing each detection as a line.

    With -d it says when it has subscribed: what is told from then on, it hears.
    """
    reader = json.loads(access.read_text())
    url = reader["url"].replace("reader@", f"reader:{reader['password']}@")
    address = ["-L", f"{url}/fieldstation/+/detection", "-q", "1", "-d"]
    with seen.open("wb") as lines:
        process = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", *address], stdout=lines)
    try:
        wait_until(lambda: "Subscribed" in seen.read_text())
        yield
    finally:
        process.kill()
        process.wait()


def seen_by_subscriber(lines: Path) -> list[str]:
    """Return the ids of the detections that mosquitto_sub printed."""
    text = lines.read_text()
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [json.loads(line)["event_id"] for line in whole if line.startswith("{")]


def read_log(folder: Path) -> list[Heard]:
    """Return what the sqlite3 shell reads from a station's log."""
    rows = subprocess.run(
        ["sqlite3", "-json", str(folder / "state" / "log.db"), QUERY],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [
        Heard(row["event_id"], row["scientific_name"], row["started_at"] / US_PER_S)
        for row in json.loads(rows or "[]")
    ]


def hear_file(folder: Path, bundle: Path, file: Path) -> list[Heard]:
    """Return what a station logs of a file, or of a folder of them, by --source."""
    subprocess.run(
        command(folder, bundle, "--source", str(file)),
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,
    )
    return read_log(folder)


def in_first_hour(heard: Heard) -> Heard:
    """Return an event of a file of another hour as if it were of the first."""
    return replace(heard, started_s=FILE_BEGAN_S + (heard.started_s - FILE_BEGAN_S) % HOUR_S)


@dataclass(frozen=True)
class Live:
    """What was heard of a file that was played, and between which instants it began."""

    events: list[Heard]
    began_s: tuple[float, float]

    def is_at(self, live: Heard, from_file: Heard, hop_s: float) -> bool:
        """Return whether an event is the file's: same name, begun within one hop of it."""
        played_at = from_file.started_s - FILE_BEGAN_S
        earliest, latest = (began + played_at for began in self.began_s)
        within = earliest - hop_s <= live.started_s <= latest + hop_s
        return live.name == from_file.name and within


def hear_microphone(
    server: SoundServer, folder: Path, bundle: Path, file: Path, n_expected: int
) -> Live:
    """Return what a station logs of the same file played to it, and check the subscriber."""
    with listening(server, folder, bundle) as lines:
        played_at = time.time()
        assert server.play(file).wait() == 0
        # paplay ends when all was played: it began no later than its length before.
        began_s = played_at, time.time() - soundfile.info(file).duration
        wait_until(lambda: len(seen_by_subscriber(lines)) >= n_expected)
        seen = seen_by_subscriber(lines)
    logged = read_log(folder)
    assert set(seen) == {heard.id for heard in logged}
    return Live(logged, began_s)


def wait_until(so: Callable[[], bool]) -> None:
    """Wait until something is so, or for as long as patience lasts; the caller compares."""
    deadline = time.monotonic() + PATIENCE_S
    while not so() and time.monotonic() < deadline:
        time.sleep(0.2)


def recording(samples: np.ndarray, file: Path, rate: int = RATE, after_s: int = 1) -> Path:
    """Write samples between silences, in which every event begins and closes.

    Args:
        after_s: longer than a window, so that the last event is told before the end.
    """
    file.parent.mkdir(exist_ok=True)
    before, after = np.zeros(rate, np.float32), np.zeros(after_s * rate, np.float32)
    soundfile.write(file, np.concatenate([before, samples, after]), rate)
    return file


def test_the_virtual_microphone_is_exact(server: SoundServer, tmp_path: Path) -> None:
    """Before the station is judged by it: what is played in comes out, sample for sample."""
    noise = np.random.default_rng(1).integers(-20_000, 20_000, 2 * RATE).astype(np.int16)
    noise[0] = 1
    soundfile.write(tmp_path / "noise.wav", noise, RATE)
    recorder = subprocess.Popen(
        [sys.executable, "-c", CAPTURE, tmp_path / "taken", str(5 * RATE)], env=server.environment
    )
    server.wait_for_listener(lambda: recorder.poll() is None)
    server.play(tmp_path / "noise.wav").wait()
    assert recorder.wait() == 0
    taken = np.fromfile(tmp_path / "taken", np.int16)
    begin = int(np.flatnonzero(taken)[0])
    np.testing.assert_array_equal(taken[begin : begin + len(noise)], noise)


def test_tones_are_heard_as_from_their_file(server: SoundServer, tmp_path: Path) -> None:
    """Five calls of two species: the same names in the same order, begun within one hop."""
    bundle = make_tone_bundle(tmp_path / "tones")
    calls = [(2_000, 1.2), (4_000, 1.6), (2_000, 0.7), (4_000, 2.1), (2_000, 0.9)]
    pause = np.zeros(round(1.7 * RATE), np.float32)
    samples = np.concatenate([part for hz, s in calls for part in (tone(hz, s, RATE), pause)])
    file = recording(samples, tmp_path / "played" / FILE_NAME)
    from_file = hear_file(tmp_path / "file", bundle.path, file)
    assert len(from_file) == len(calls)
    live = hear_microphone(server, tmp_path / "live", bundle.path, file, len(calls))
    assert [heard.name for heard in live.events] == [heard.name for heard in from_file]
    for mine, theirs in zip(live.events, from_file, strict=True):
        assert live.is_at(mine, theirs, bundle.window_s / 2)


def test_the_demo_is_heard_as_from_its_file(server: SoundServer, tmp_path: Path) -> None:
    """The shipped bundle hears in the demo live nothing that it does not hear in the file.

    The microphone's windows begin at other samples than the file's, and the demo's faint calls
    pass their threshold in some of them only. So the file is heard at twelve offsets of a twelfth
    hop: something must be heard live, and all of it must be named by one of them. (The tones
    above are loud, and compared strictly.)
    """
    bundle = load_bundle(find_bundle("garden"))
    hop_s = bundle.window_s / 2
    samples, rate = soundfile.read(demo.RECORDING, dtype="float32")
    folder = tmp_path / "files"
    for twelfth in range(12):
        late = np.zeros(round(twelfth * hop_s / 12 * rate), np.float32)
        name = FILE_NAME.replace("_04", f"_{4 + twelfth:02}")
        recording(np.concatenate([late, samples]), folder / name, rate, after_s=4)
    heard = hear_file(tmp_path / "station", bundle.path, folder)
    assert heard[0].started_s < FILE_BEGAN_S + HOUR_S, "not in the first file"
    live = hear_microphone(server, tmp_path / "live", bundle.path, folder / FILE_NAME, n_expected=1)
    assert live.events
    for mine in live.events:
        assert any(live.is_at(mine, theirs, hop_s) for theirs in map(in_first_hour, heard))
