"""`fieldstation worker` and `run` with one: real processes, a real broker, killed on the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.commands.worker import dead_workers, take_slot
from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import Access, BrokerUrl, Connection, Session, Subscription
from fieldstation.state import Lock, State
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.late_log import LateLog
from fieldstation.store.log_db import LogStore
from tests.commands.conftest import Run, needs_mosquitto
from tests.mosquitto import Mosquitto
from tests.mqtt.conftest import QUICK
from tests.mqtt.fakes import Listener, listening, until
from tests.onnx_models import make_painting_bundle
from tests.store.examples import DAWN, MINUTE, detection
from tests.store.test_late_log import damage, wait_for_repair

pytestmark = needs_mosquitto

N_KILLS = int(os.environ.get("FIELDSTATION_KILLS", "2"))
"""Each costs the start of a process; ten for who has the time"""
N_CHILD_KILLS = int(os.environ.get("FIELDSTATION_KILLS", "1"))
"""Between them the station waits ever longer"""
N_JOBS = 6 * (N_KILLS + 1)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones and paints each in its colour."""
    return make_painting_bundle(tmp_path_factory.mktemp("model") / "paints")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a running broker."""
    found = Mosquitto(tmp_path)
    found.start()
    yield found
    found.kill()


def rows(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Return what a log answers; nothing while it has no such table."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as log:
            return log.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


@contextmanager
def command(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background, and kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldstation", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TZ": "UTC", "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def subscriber(access: Access) -> Iterator[Listener]:
    wanted = (Subscription("fieldstation/+/image"), Subscription("fieldstation/+/image/png"))
    with listening(Connection(access, QUICK), Session("reader", wanted)) as heard:
        yield heard


def told(heard: Listener) -> list[str]:
    """Return the events whose pictures were told, in order."""
    return [
        messages.read_image(d.topic, d.payload)[0].image.event_id
        for d in heard.deliveries
        if d.topic.endswith("/image")
    ]


def shown(heard: Listener) -> list[bytes]:
    """Return the pictures for people."""
    return [d.payload for d in heard.deliveries if d.topic == "fieldstation/hedge/image/png"]


def wish(database: Path, *numbers: int) -> None:
    """Let a log have heard Great Tits, whose pictures wait."""
    log = LogStore(str(database), maker=JobMaker(JobPolicy()))
    log.record([detection(n, started_at=DAWN + n * MINUTE) for n in numbers], DAWN)
    log.close()


def worker_of(broker: Mosquitto, paints: Bundle, state: Path, *more: object) -> tuple[object, ...]:
    where = ("--broker", broker.url, "--bundle", paints.path, "--state", state)
    return ("worker", "--database", f"sqlite:///{state / 'log.db'}", *where, *more)


def test_a_recording_ends_as_pictures_in_the_log_and_at_the_broker(
    broker: Mosquitto, cli: Run, paints: Bundle, recording: Path, state: Path
) -> None:
    """`--wait-images`: painted from the call, told, and marked as generated."""
    access = Access(BrokerUrl.parse(broker.url))
    with subscriber(access) as heard:
        ended = cli(
            *("run", "--source", recording, "--bundle", paints.path, "--name", "hedge"),
            *("--broker", broker.url, "--wait-images"),
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        events = {event for (event,) in rows(state / "log.db", "SELECT event_id FROM detections")}
        until(lambda: set(told(heard)) == events and len(events) == 2)
        until(lambda: len(shown(heard)) >= 2)
    images = rows(state / "log.db", "SELECT file, is_of_call, published_at FROM images")
    assert len(images) == 2
    assert all(of_call and published for _, of_call, published in images)
    for file, _, _ in images:
        png = (state / "images" / str(file)).read_bytes()
        assert png.startswith(PNG)
        assert b"Generated\0true" in png
    assert all(png.startswith(PNG) for png in shown(heard))


def test_without_waiting_the_pictures_stay_in_the_queue_for_a_worker(
    cli: Run, paints: Bundle, recording: Path, state: Path, broker: Mosquitto
) -> None:
    """A recording is not held up; `worker --once` paints what waits, then ends."""
    where = ("--bundle", paints.path, "--broker", broker.url)
    ended = cli("run", "--source", recording, *where)
    assert ended.returncode == 0, ended.stdout
    assert f"still to be painted: fieldstation worker --once --state {state}" in ended.stdout
    queued = "SELECT count(*) FROM jobs WHERE state = 'queued'"
    assert rows(state / "log.db", queued) == [(2,)]
    painted = cli("worker", "--once", *where)
    assert painted.returncode == 0, painted.stdout + painted.stderr
    assert rows(state / "log.db", "SELECT count(*) FROM images WHERE published_at > 0") == [(2,)]


def test_with_torch_it_paints_too_and_the_log_says_so(
    broker: Mosquitto, paints: Bundle, cli: Run, state: Path
) -> None:
    """`--runtime torch`: every picture is of what is named beside it."""
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    state.mkdir()
    wish(state / "log.db", 1, 2)
    painted = cli(*worker_of(broker, paints, state, "--once", "--runtime", "torch"))
    assert painted.returncode == 0, painted.stdout + painted.stderr
    ran = "torch-cuda" if torch.cuda.is_available() else "torch-cpu"
    assert f"painter paints, on {ran}" in painted.stdout
    told = "SELECT provider, count(*) FROM images WHERE published_at > 0 GROUP BY provider"
    assert rows(state / "log.db", told) == [(ran, 2)]


def test_killed_again_and_again_it_paints_each_event_once_and_loses_none(
    broker: Mosquitto, paints: Bundle, state: Path
) -> None:
    """Wherever it is killed: claimed, painted, written, recorded, half published."""
    state.mkdir()
    wish(state / "log.db", *range(1, N_JOBS + 1))
    n_done = "SELECT count(*) FROM jobs WHERE state = 'done'"
    with subscriber(Access(BrokerUrl.parse(broker.url))) as heard:
        for n in range(N_KILLS):
            before = rows(state / "log.db", n_done)
            with command(*worker_of(broker, paints, state)):
                wait_for_another(state / "log.db", n_done, before)
                time.sleep(0.03 * n)
        paint_the_rest(broker, paints, state)
        until(lambda: len(set(told(heard))) == N_JOBS)
    by_state = "SELECT state, count(*) FROM jobs GROUP BY state"
    assert rows(state / "log.db", by_state) == [("done", N_JOBS)]
    identities = "SELECT count(*), count(DISTINCT event_id), count(published_at) FROM images"
    assert rows(state / "log.db", identities) == [(N_JOBS,) * 3]
    kept = {str(path.relative_to(state / "images")) for path in state.glob("images/*/*.png")}
    assert kept == {str(file) for (file,) in rows(state / "log.db", "SELECT file FROM images")}


def wait_for_another(database: Path, sql: str, answer: list[tuple[object, ...]]) -> None:
    """Wait until a log answers otherwise."""
    until(lambda: rows(database, sql) != answer, 60)


def paint_the_rest(broker: Mosquitto, paints: Bundle, state: Path) -> None:
    """Let a worker paint what is left, and end."""
    words = [sys.executable, "-m", "fieldstation", *worker_of(broker, paints, state, "--once")]
    ended = subprocess.run(list(map(str, words)), timeout=100, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_two_workers_share_what_waits(broker: Mosquitto, paints: Bundle, state: Path) -> None:
    """On one folder, at once: each event is painted by one of them."""
    state.mkdir()
    wish(state / "log.db", *range(1, 17))
    words = worker_of(broker, paints, state, "--once")
    with command(*words) as first:
        until(lambda: n_at_work(state) == 1, 60)
        first.send_signal(signal.SIGSTOP)  # or it may be done before the other has begun
        with command(*words) as second:
            until(lambda: n_at_work(state) == 2, 60)
            first.send_signal(signal.SIGCONT)
            said = [worker.communicate(timeout=100)[0] for worker in (first, second)]
            assert [first.returncode, second.returncode] == [0, 0], said
    assert sum(text.count("picture of Great Tit") for text in said) == 16
    assert rows(state / "log.db", "SELECT count(*) FROM images") == [(16,)]
    assert len(list((state / "worker").iterdir())) == 2


def n_at_work(state: Path) -> int:
    """Return how many workers have a place of their own below a state."""
    return sum(Lock.holder_of(place) is not None for place in state.glob("worker/*"))


def test_a_worker_outlives_damage_to_the_log(
    broker: Mosquitto, paints: Bundle, state: Path
) -> None:
    """It says so and waits, until the station that keeps the log has restored it."""
    state.mkdir()
    database = state / "log.db"
    wish(database, *range(1, 41))
    damage(database, "jobs")
    with command(*worker_of(broker, paints, state, "--once")) as worker:
        assert worker.stdout
        said = ""
        for line in worker.stdout:
            said += line
            if "trying again" in line:
                break
        assert "log.db is damaged" in said
        station = LateLog(f"sqlite:///{database}", backups=state / "backups")
        station.suspect("the worker said so")
        wait_for_repair(station)
        station.close()
        rest, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0, said + rest
    assert rows(database, "SELECT count(*) > 0 FROM images") == [(1,)]
    assert rows(database, "SELECT count(*) FROM jobs WHERE state <> 'done'") == [(0,)]


def test_whoever_starts_takes_up_the_claims_of_all_dead_workers_of_its_folder(
    state: Path,
) -> None:
    """Two were killed, one is started: nothing waits for a lease to end."""
    first, lock = take_slot(State(state))
    second, other = take_slot(State(state))
    assert first.folder != second.folder
    lock.release()
    other.release()
    again, lock = take_slot(State(state))
    assert again.folder == first.folder
    assert dead_workers(State(state), again) == [first.key(), second.key()]
    lock.release()


def test_a_station_starts_its_worker_again(paints: Bundle, recording: Path, state: Path) -> None:
    """Killed before it has painted anything: the pictures come, with the station's own broker."""
    access = ("--bundle", paints.path, "--state", state, "--name", "hedge")
    with command("run", "--source", recording, *access, "--wait-images") as station:
        child = 0
        for _ in range(N_CHILD_KILLS):
            child = next_worker(station.pid, child)
            os.kill(child, signal.SIGKILL)
        said, _ = station.communicate(timeout=100)
    assert station.returncode == 0, said
    assert said.count("the worker ended (signal 9): starting it again") == N_CHILD_KILLS
    assert rows(state / "log.db", "SELECT count(*), count(DISTINCT event_id) FROM images") == [
        (2, 2)
    ]


def next_worker(pid: int, before: int) -> int:
    """Wait for a station's worker that is another than before; return its process."""
    found: list[int] = []

    def has_another() -> bool:
        found[:] = children_named(pid, "worker")
        return found not in ([], [before])

    until(has_another, 60)
    return found[0]


def children_named(pid: int, word: str) -> list[int]:
    """Return a process's children whose command line has a word."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(n): Path(f"/proc/{n}/cmdline").read_bytes().split(b"\0") for n in children}
    except OSError:
        return []
    return [n for n, words in lines.items() if word.encode() in words]


def test_what_a_person_must_mend_exits_2(
    here: Run, tones: Bundle, paints: Bundle, recording: Path, tmp_path: Path, state: Path
) -> None:
    """A supervisor does not start it again; one line says what."""
    refused = here("worker", "--bundle", tones.path)
    assert refused.returncode == 2
    assert "does not paint" in refused.stderr.splitlines()[-1]
    refused = here("worker", "--bundle", paints.path, "--runtime", "jax")
    assert refused.returncode == 2
    assert "--runtime is 'jax'; one of onnxruntime, torch" in refused.stderr
    refused = here("worker", "--bundle", paints.path, "--images", "/dev/null/x", "--once")
    assert refused.returncode == 2
    assert "/dev/null/x can hold no pictures: Not a directory" in refused.stderr
    (tmp_path / "log.db").write_text("no database " * 100)
    refused = here(
        "worker", "--bundle", paints.path, "--database", f"sqlite:///{tmp_path / 'log.db'}"
    )
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_pictures_that_will_never_come_are_not_waited_for(here: Run, tones: Bundle) -> None:
    """Said before anything is heard."""
    refused = here("run", "--wait-images", "--bundle", tones.path, "--source", "x.flac")
    assert refused.returncode == 2
    assert "--wait-images, but no picture would come: tones paints none" in refused.stderr


def test_a_demo_without_a_worker_waits_for_no_picture(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would for ever: whoever paints for this machine looks into another log."""
    monkeypatch.setenv("FIELDSTATION_GENERATION_WORKER", "false")
    ended = cli("run", "--demo")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "still to be painted: fieldstation worker --once --state" in ended.stdout


def test_where_no_pictures_are_wanted_a_service_ends_well(
    here: Run, paints: Bundle, state: Path
) -> None:
    """Its unit is installed with the station's, whatever the settings say; by hand it is told."""
    state.mkdir()
    (state / "fieldstation.toml").write_text("[generation]\nenabled = false\n")
    ended = here("worker", "--if-wanted", "--bundle", paints.path)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        0,
        "no pictures: generation.enabled is false: set it to true, or remove the line",
    )
    assert here("worker", "--bundle", paints.path).returncode == 2
