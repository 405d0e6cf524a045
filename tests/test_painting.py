"""A running station's side of its pictures: what it tells, what it waits for, what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.config import GenerationSettings, LogSettings, Settings
from fieldstation.painting import Painting
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.late_log import LateLog
from fieldstation.worker_process import Command
from tests.fakes import FakeClock
from tests.mqtt.fakes import until
from tests.onnx_models import make_painting_bundle, make_tone_bundle
from tests.store.examples import DAWN, detection, image

MENDS = Command(["sh", "-c", "exit 2"], {})


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_painting_bundle(tmp_path_factory.mktemp("model") / "paints")


@pytest.fixture(scope="module")
def names_only(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LateLog]:
    found = LateLog(str(tmp_path / "log.db"), JobMaker(JobPolicy()))
    yield found
    found.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def painting(
    log: LateLog | None,
    bundle: Bundle,
    clock: FakeClock,
    command: Command | None = None,
    **generation: bool,
) -> Painting:
    settings = Settings(
        generation=GenerationSettings(**generation), log=LogSettings(enabled=log is not None)
    )
    return Painting(settings, bundle, "garden", log, command, clock)


def test_it_says_who_paints(
    log: LateLog, paints: Bundle, names_only: Bundle, clock: FakeClock
) -> None:
    """Or why nobody does."""
    said = {
        painting(log, paints, clock, MENDS).describe(): "2 species, by the worker beside it",
        painting(log, paints, clock).describe(): "2 species, by whatever worker looks into the log",
        painting(log, names_only, clock).describe(): "off (the bundle paints nothing)",
        painting(log, paints, clock, enabled=False).describe(): "off (generation.enabled = false)",
        painting(None, paints, clock).describe(): "a hub's",
    }
    assert list(said) == list(said.values())


def test_it_waits_until_each_picture_is_painted_and_told(
    log: LateLog, paints: Bundle, clock: FakeClock
) -> None:
    """Of this station; the neighbour's are not waited for. The log is not asked all the time."""
    found = painting(log, paints, clock)
    log.record([detection(1), detection(2, station="pond")], DAWN)
    assert not found.all_done()
    jobs = Jobs(lambda: log.opened().database, clock.wall)
    (job,) = [job for job in jobs.claim("worker", 2) if job.station == "garden"]
    jobs.finish(job, "worker", image(1))
    clock.advance(1)
    assert not found.all_done()
    with log.opened().database.write() as connection:
        connection.exec_driver_sql("UPDATE images SET published_at = 1")
    assert not found.all_done()
    clock.advance(1)
    assert found.all_done()


def test_a_worker_that_will_never_paint_is_not_waited_for(
    log: LateLog, paints: Bundle, clock: FakeClock
) -> None:
    """What it said stands in health."""
    found = painting(log, paints, clock, MENDS)
    log.record([detection(1)], DAWN)
    found.start()
    until(lambda: found.check() or found.all_done())
    assert "the worker cannot paint" in found.problems()[0]
    found.stop()
    assert found.state().n_waiting == 1


def test_health_tells_of_the_queue_and_of_what_is_parked(
    log: LateLog, paints: Bundle, names_only: Bundle, clock: FakeClock
) -> None:
    """Where no pictures are wanted it tells nothing of them."""
    found = painting(log, paints, clock)
    log.record([detection(1), detection(2)], DAWN)
    jobs = Jobs(lambda: log.opened().database, clock.wall)
    (job,) = jobs.claim("worker", 1)
    jobs.fail(job, "worker", "no such bird", for_good=True)
    assert found.health() == {
        "n_pictures_waiting": 1,
        "n_pictures_parked": 1,
        "n_pictures_dropped": 0,
        "ms_per_picture": None,
        "painter": None,
    }
    assert "1 picture cannot be painted (no such bird)" in found.problems()[0]
    assert painting(log, names_only, clock).health() == {}


def test_the_station_loads_nothing_of_the_generator() -> None:
    """Neither Pillow nor the room that paints: a picture costs the ear a row."""
    code = (
        "import sys, fieldstation.service, fieldstation.hub_pictures;"
        "print([m for m in sys.modules if m.startswith(('PIL', 'fieldstation.generation.'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
