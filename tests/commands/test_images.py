"""`fieldstation images`: what it lists, copies and queues; and what `check` says of the queue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.cli import main
from fieldstation.clock import SystemClock
from fieldstation.gallery import Gallery
from fieldstation.state import State
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from tests.onnx_models import make_painting_bundle
from tests.store.examples import DAWN, MINUTE, detection, image

CHAFFINCH = {"scientific_name": "Fringilla coelebs", "common_name": "Chaffinch"}


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that paints."""
    return make_painting_bundle(tmp_path_factory.mktemp("model") / "paints")


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


Ask = Callable[..., Answer]


@pytest.fixture
def ask(state: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return what runs a command in this process, which is sooner done than a new one."""

    def run(*arguments: object) -> Answer:
        code = main([*map(str, arguments), "--state", str(state)])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def painted(state: Path) -> Path:
    """Return a state folder: a Great Tit painted, a Chaffinch parked, another waiting."""
    state.mkdir()
    log = LogStore(str(state / "log.db"), maker=JobMaker(JobPolicy()))
    heard = [detection(n, started_at=DAWN + n * MINUTE, **CHAFFINCH) for n in (2, 3)]
    log.record([detection(1), *heard], DAWN)
    jobs = Jobs(lambda: log.database, SystemClock().wall)
    claimed = jobs.claim("worker", 2)
    tit, chaffinch = sorted(claimed, key=lambda job: job.event_id)
    png = b"a picture"
    Gallery(state / "images").write("2026-05-01/a.png", png)
    digest = hashlib.sha256(png).hexdigest()
    jobs.finish(tit, "worker", image(1, file="2026-05-01/a.png", sha256=digest))
    jobs.fail(chaffinch, "worker", "no red left", for_good=True)
    log.close()
    return state


def test_pictures_and_wishes_are_listed(painted: Path, ask: Ask) -> None:
    """What is not there says why."""
    asked = ask("images", "--format", "jsonl")
    rows = [json.loads(line) for line in asked.stdout.splitlines()]
    told = [(row["common_name"], row["state"], row["picture"]) for row in rows]
    assert told == [
        ("Chaffinch", "queued", ""),
        ("Chaffinch", "parked", "no red left"),
        ("Great Tit", "painted", "2026-05-01/a.png"),
    ]
    assert (rows[2]["painted_from"], rows[2]["paint_ms"]) == ("call", 400.0)
    asked = ask("images", "--only", "removed")
    assert asked.stdout == (
        "local  station  common_name  scientific_name  probability  state  picture\n"
        "no picture that fits\n"
    )


def test_copies_are_named_for_people(painted: Path, ask: Ask, tmp_path: Path) -> None:
    """By date, time and bird; what was removed by hand is said, with the mend."""
    copied = ask("images", "--out", tmp_path / "mine", "--species", "tit")
    assert (copied.returncode, copied.stdout) == (0, f"1 picture in {tmp_path / 'mine'}\n")
    (copy,) = (tmp_path / "mine").iterdir()
    assert copy.name == "2026-05-01_061207_Great-Tit_000000000001_fedcba98_7.png"
    assert copy.read_bytes() == b"a picture"
    (painted / "images" / "2026-05-01" / "a.png").unlink()
    missing = ask("images", "--out", tmp_path / "mine")
    assert missing.returncode == 1
    assert "1 are not in" in missing.stdout


def test_events_are_queued_again_for_the_present_generator(
    painted: Path, ask: Ask, paints: Bundle
) -> None:
    """A bundle that paints nothing cannot be meant."""
    asked = ask("images", "--again", "--only", "parked", "--bundle", paints.path)
    assert asked.stdout == f"1 event queued for generator {paints.generator_id} of paints\n"
    asked = ask("images", "--again", "--species", "tit", "--bundle", paints.path)
    assert "1 event queued" in asked.stdout
    again = ask("images", "--again", "--bundle", paints.path)
    assert "0 events queued" in again.stdout
    assert "waits already" in again.stdout


def test_an_event_is_named_as_anybody_spells_it(painted: Path, ask: Ask, paints: Bundle) -> None:
    """In capitals too; one that the log has not is said to be none of it."""
    wish = ("images", "--again", "--bundle", paints.path)
    asked = ask(*wish, f"{{{detection(1).event_id.upper()}}}")
    assert "1 event queued" in asked.stdout
    asked = ask(*wish, detection(2).event_id, detection(99).event_id)
    assert asked.returncode == 2
    assert f"event {detection(99).event_id} is not in the log" in asked.stderr
    assert "queued" not in asked.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--again", "--out", "folder"), "exclude each other"),
        (("--again", "robin"), "no event's id"),
        (("00000000-0000-0000-0000-000000000001",), "goes with --again"),
    ],
)
def test_what_cannot_be_meant_is_one_line(ask: Ask, arguments: tuple[str, ...], said: str) -> None:
    """Exit 2, and the mend in it."""
    asked = ask("images", *arguments)
    assert asked.returncode == 2
    assert said in asked.stderr.splitlines()[-1]


def test_check_tells_of_what_cannot_be_painted(painted: Path, ask: Ask, paints: Bundle) -> None:
    """With the reason and the mend; asked again, it waits for a worker."""
    checked = ask("check", "--bundle", paints.path)
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("pictures")]
    assert "MEND" in line
    assert "1 cannot be painted (newest: no red left)" in line
    ask("images", "--again", "--only", "parked", "--bundle", paints.path)
    checked = ask("check", "--bundle", paints.path)
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("pictures")]
    assert "OK" in line
    assert "2 wait, 400 ms each on CPUExecutionProvider, no worker here" in line
    place = State(painted / "worker" / "1")
    place.prepare()
    with place.lock():
        checked = ask("check", "--bundle", paints.path)
    assert "worker: process " in checked.stdout
