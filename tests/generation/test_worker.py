"""The painting stage: a real log and real files, a painter that does what it is told."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from fieldstation.clock import SystemClock
from fieldstation.gallery import Gallery, GalleryError, picture_name
from fieldstation.generation.artist import Painted
from fieldstation.generation.conditions import Unpaintable
from fieldstation.generation.denoiser import ON_CPU, TORCH_CPU, TORCH_CUDA
from fieldstation.generation.worker import HANGS_S, PainterBroken, Worker
from fieldstation.onnx_session import CPU, CUDA
from fieldstation.records import Job
from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.images import Images
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import IMAGES, JOBS
from tests.mqtt.fakes import Stage, until
from tests.store.examples import DAWN, EMBEDDING, MINUTE, detection

AWAY = (StoreUnavailable, GalleryError)
WALL = SystemClock().wall


class FakeArtist:
    """Paints a few bytes; fails at events that it is told of, or altogether."""

    generator_id = "0123456789abcdef"
    encoder_id = detection(1).encoder_id

    def __init__(self, provider: str = CPU) -> None:
        self.provider = provider
        self.batches: list[list[int]] = []
        self.poison: dict[int, Exception] = {}
        self.fault: Exception | None = None
        self.is_well = True
        self.gate = threading.Event()
        self.gate.set()

    def check(self) -> None:
        if not self.is_well:
            raise ValueError("another picture")

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        numbers = [int(job.event_id[-4:], 16) for job in jobs]
        self.batches.append(numbers)
        self.gate.wait(20)
        for number in numbers:
            if number in self.poison:
                raise self.poison[number]
        if self.fault:
            raise self.fault
        return [Painted(b"picture %d" % number, number, 64, 64) for number in numbers]


class Studio:
    """A log with jobs, a folder, and a worker between them."""

    def __init__(self, folder: Path) -> None:
        self.log = LogStore(str(folder / "log.db"), maker=JobMaker(JobPolicy()))
        self.jobs: Any = Jobs(lambda: self.log.database, WALL)
        self.gallery = Gallery(folder / "images")
        self.artist = FakeArtist()
        self.on_cpu = FakeArtist()

    def wish(self, *numbers: int, **changes: Any) -> None:
        heard = [detection(n, started_at=DAWN + n * MINUTE, **changes) for n in numbers]
        self.log.record(heard, DAWN)

    def worker(self, name: str = "worker", hangs_s: float = HANGS_S) -> Worker:
        return Worker(
            name,
            [name],
            self.jobs,
            self.gallery,
            lambda job, generator, seed: picture_name(
                job.event_id, generator, seed, job.started_at, job.timezone
            ),
            lambda on_cpu: self.on_cpu if on_cpu else self.artist,
            wall=WALL,
            away=AWAY,
            poll_s=0.02,
            hangs_s=hangs_s,
        )

    def states(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        with self.log.database.read() as connection:
            return Counter(connection.execute(select(JOBS.c.state)).scalars())

    def painted(self) -> list[int]:
        """Return the numbers of the events that have a picture whose file is there."""
        with self.log.database.read() as connection:
            rows = connection.execute(select(IMAGES.c.seed, IMAGES.c.file)).all()
        there = [row.seed for row in rows if (self.gallery.folder / row.file).is_file()]
        return sorted(there)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    found = Studio(tmp_path)
    yield found
    found.log.close()


@pytest.fixture
def start() -> Iterator[Callable[[Worker], Stage]]:
    """Runs a worker in a thread until the test ends."""
    started: list[Stage] = []

    def run(worker: Worker) -> Stage:
        stage = Stage(worker)
        started.append(stage)
        stage.start()
        return stage

    yield run
    for stage in started:
        stage.stop()


Start = Callable[[Worker], Stage]


def test_what_waits_is_painted_in_growing_batches(
    studio: Studio, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture each, with its file; jobs that come later too."""
    monkeypatch.setattr("fieldstation.generation.worker.BATCH_S", 1e6)  # who paints may be idle
    studio.wish(*range(1, 8))
    start(studio.worker())
    until(lambda: studio.states() == {"done": 7})
    studio.wish(8)
    until(lambda: studio.states() == {"done": 8})
    assert studio.painted() == list(range(1, 9))
    assert [len(batch) for batch in studio.artist.batches] == [1, 2, 4, 1]


def test_a_poisoned_job_is_parked_and_harms_no_other(studio: Studio, start: Start) -> None:
    """In a batch each is tried alone; who fails three times is parked with the reason."""
    studio.artist.poison = {3: ValueError("a nightingale that nobody can paint")}
    studio.wish(*range(1, 7))
    start(studio.worker())
    until(lambda: studio.states() == {"done": 5, "parked": 1})
    assert studio.painted() == [1, 2, 4, 5, 6]
    assert studio.jobs.state().reason == "ValueError: a nightingale that nobody can paint"
    assert sum(batch == [3] for batch in studio.artist.batches) == 3


def test_what_the_bundle_does_not_paint_is_parked_at_once(studio: Studio, start: Start) -> None:
    """It will not paint it tomorrow either."""
    studio.artist.poison = {1: Unpaintable("no such bird")}
    studio.wish(1)
    start(studio.worker())
    until(lambda: studio.states() == {"parked": 1})
    assert studio.artist.batches == [[1]]


def test_what_another_encoder_heard_is_parked_at_once(studio: Studio, start: Start) -> None:
    """After a change of encoder nobody paints what waited, and what is heard now is painted."""
    studio.wish(*range(1, 30), encoder_id="of yesterday", embedding=EMBEDDING)
    studio.wish(30, embedding=EMBEDDING)
    start(studio.worker())
    until(lambda: studio.states() == {"done": 1, "parked": 29})
    assert studio.artist.batches == [[30]]


def test_a_batch_too_large_for_the_memory_is_painted_one_by_one(
    studio: Studio, start: Start
) -> None:
    """Nobody is blamed for what goes alone."""
    paint = studio.artist.paint

    def starved(jobs: Sequence[Job]) -> list[Painted]:
        if len(jobs) > 1:
            raise MemoryError
        return paint(jobs)

    studio.artist.paint = starved  # type: ignore[method-assign]
    studio.wish(*range(1, 6))
    start(studio.worker())
    until(lambda: studio.states() == {"done": 5})
    with studio.log.database.read() as connection:
        assert set(connection.execute(select(JOBS.c.n_failures)).scalars()) == {0}


@pytest.mark.parametrize(("gpu", "cpu"), [(CUDA, CPU), (TORCH_CUDA, TORCH_CPU)])
def test_a_gpu_that_vanishes_is_followed_by_the_cpu(
    studio: Studio, start: Start, caplog: pytest.LogCaptureFixture, gpu: str, cpu: str
) -> None:
    """Its golden input fails too: no job is blamed, what runs is told as it is."""
    studio.artist, studio.on_cpu = FakeArtist(gpu), FakeArtist(cpu)
    studio.artist.fault, studio.artist.is_well = RuntimeError("CUDA error 999"), False
    studio.wish(1, 2, 3)
    worker = studio.worker()
    start(worker)
    until(lambda: studio.states() == {"done": 3})
    assert studio.artist.batches == [[1]]
    assert worker.state().provider == cpu
    assert "CUDA error 999" in worker.state().fell_back
    assert any("the CPU takes over" in message for message in caplog.messages)
    assert studio.jobs.state().provider == cpu


def test_a_cpu_that_paints_nothing_any_more_ends_the_process(studio: Studio) -> None:
    """Another process may; the job is not blamed, and waits for it."""
    studio.artist.fault, studio.artist.is_well = ValueError("illegal instruction"), False
    studio.wish(1)
    with pytest.raises(PainterBroken, match="illegal instruction"):
        studio.worker().run(threading.Event(), lambda: None)
    assert studio.states() == {"queued": 1}
    studio.artist.fault, studio.artist.is_well = None, True
    assert [job.event_id for job in studio.jobs.claim("next", 5)] == [detection(1).event_id]


def test_told_to_stop_it_gives_back_what_it_was_painting(studio: Studio, start: Start) -> None:
    """At once, though painting cannot be interrupted; nothing is counted against the job."""
    studio.artist.gate.clear()
    studio.wish(1)
    stage = start(studio.worker())
    until(lambda: studio.artist.batches)
    stage.stop()
    studio.artist.gate.set()
    with studio.log.database.read() as connection:
        (row,) = connection.execute(select(JOBS)).all()
    assert (row.state, row.n_deaths, row.worker) == ("queued", 0, None)


def test_told_to_stop_while_it_looks_for_the_fault_it_gives_back_too(
    studio: Studio, start: Start
) -> None:
    """Nobody knows yet whose fault it was: none of the jobs ended a worker."""
    studio.artist.fault = ValueError("out of memory")
    asked, answer = threading.Event(), threading.Event()

    def check() -> None:
        asked.set()
        answer.wait(20)

    studio.artist.check = check  # type: ignore[method-assign]
    studio.wish(1)
    stage = start(studio.worker())
    assert asked.wait(20)
    stage.stop()
    answer.set()
    with studio.log.database.read() as connection:
        (row,) = connection.execute(select(JOBS)).all()
    assert (row.state, row.n_deaths, row.worker) == ("queued", 0, None)


def test_it_beats_while_it_paints(studio: Studio, start: Start) -> None:
    """A slow machine is not taken for a hung one."""
    studio.artist.gate.clear()
    studio.wish(1)
    stage = start(studio.worker())
    until(lambda: studio.artist.batches)
    before = stage.n_beats
    until(lambda: stage.n_beats >= before + 2)
    studio.artist.gate.set()


def test_a_painter_that_gets_no_processor_is_not_a_hung_one(studio: Studio, start: Start) -> None:
    """Where others want all of it, an idle thread waits for as long as they do."""
    studio.artist.gate.clear()
    studio.wish(1)
    stage = start(studio.worker(hangs_s=0.3))
    until(lambda: studio.artist.batches)
    before = stage.n_beats
    until(lambda: stage.n_beats > before + 1)  # half a second each
    studio.artist.gate.set()
    until(lambda: studio.states() == {"done": 1})


@pytest.mark.parametrize("provider", [CPU, CUDA, TORCH_CPU, TORCH_CUDA])
def test_a_painter_that_does_not_come_back_ends_the_process(studio: Studio, provider: str) -> None:
    """On a CPU after so much of the processor's time, on a GPU after so much of anybody's."""
    studio.artist = FakeArtist(provider)
    studio.artist.gate.clear()
    if provider in ON_CPU:
        studio.artist.gate.wait = lambda _: compute_until(studio)  # type: ignore[method-assign]
    studio.wish(1)
    worker = studio.worker(hangs_s=0.05)
    with pytest.raises(PainterBroken, match=f"hung for 0.05 s on {provider}"):
        worker.run(threading.Event(), lambda: None)
    assert worker.is_painting
    studio.artist.gate.set()


def compute_until(studio: Studio) -> bool:
    """Keep the processor busy until the gate opens."""
    while not studio.artist.gate.is_set():
        sum(range(1000))
    return True


def test_it_takes_up_what_its_predecessor_left(studio: Studio, start: Start) -> None:
    """Killed with three jobs in hand: each is painted, one by one, once."""
    studio.wish(1, 2, 3)
    assert len(studio.jobs.claim("worker", 3)) == 3
    start(studio.worker())
    until(lambda: studio.states() == {"done": 3})
    assert studio.artist.batches == [[1], [3], [2]]
    assert studio.painted() == [1, 2, 3]


class Flaky:
    """A queue whose log is away for the first calls of a kind."""

    def __init__(self, jobs: Jobs, method: str, n: int) -> None:
        self._jobs, self._method, self._left = jobs, method, n

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            if name == self._method and self._left:
                self._left -= 1
                raise StoreUnavailable("log.db is locked by another process")
            return getattr(self._jobs, name)(*args)

        return call


@pytest.mark.parametrize("method", ["take_over", "claim", "finish"])
def test_a_log_that_is_away_is_waited_for(
    studio: Studio, start: Start, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once when it begins and once when it ends; the picture is not painted twice."""
    caplog.set_level(logging.INFO)
    studio.jobs = Flaky(studio.jobs, method, 2)
    studio.wish(1)
    start(studio.worker())
    until(lambda: studio.states() == {"done": 1})
    until(lambda: "pictures are kept again" in caplog.messages)
    assert studio.artist.batches == [[1]]
    said = [m for m in caplog.messages if "log.db" in m or "kept again" in m]
    assert said == [
        "no picture can be kept: log.db is locked by another process; trying again",
        "pictures are kept again",
    ]


def test_a_claim_whose_answer_was_lost_is_no_lost_job(studio: Studio, start: Start) -> None:
    """The server committed it and was cut off: nobody waits for the lease to end."""
    claim, cuts = studio.jobs.claim, [StoreUnavailable("cut off")]

    def cut_off(worker: str, n: int, encoder_id: str) -> list[Job]:
        claimed = claim(worker, n, encoder_id)
        if claimed and cuts:
            raise cuts.pop()
        return claimed  # type: ignore[no-any-return]

    studio.jobs.claim = cut_off
    studio.wish(1)
    start(studio.worker())
    until(lambda: studio.states() == {"done": 1})


def test_a_full_disk_is_waited_for(studio: Studio, start: Start) -> None:
    """The picture stays in hand until there is room."""
    write, refusals = studio.gallery.write, [GalleryError("make room")] * 2

    def full(name: str, png: bytes) -> None:
        if refusals:
            raise refusals.pop()
        write(name, png)

    studio.gallery.write = full  # type: ignore[method-assign]
    studio.wish(1)
    start(studio.worker())
    until(lambda: studio.states() == {"done": 1})
    assert studio.artist.batches == [[1]]


def test_two_workers_paint_no_event_twice(studio: Studio, start: Start) -> None:
    """They share what waits."""
    studio.wish(*range(1, 31))
    paint, slow = studio.artist.paint, threading.Lock()

    def slowly(jobs: Sequence[Job]) -> list[Painted]:
        time.sleep(0.005)
        with slow:
            return paint(jobs)

    studio.artist.paint = slowly  # type: ignore[method-assign]
    start(studio.worker("first"))
    start(studio.worker("second"))
    until(lambda: studio.states() == {"done": 30})
    assert sorted(n for batch in studio.artist.batches for n in batch) == list(range(1, 31))


def test_a_picture_painted_again_in_another_way_is_the_one_in_the_log(
    studio: Studio, start: Start
) -> None:
    """Another release or provider makes other bytes of the same seed; unread would be none."""
    studio.wish(1)
    stage = start(studio.worker())
    until(lambda: studio.states() == {"done": 1})
    stage.stop()
    images = Images(lambda: studio.log.database, WALL)
    images.mark_published([number for number, _ in images.unpublished(0, 9)])
    with studio.log.database.write() as connection:
        connection.execute(update(JOBS).values(state="queued"))
    studio.artist.paint = (  # type: ignore[method-assign]
        lambda jobs: [Painted(b"another", 1, 64, 64) for _ in jobs]
    )
    start(studio.worker())
    until(lambda: studio.states() == {"done": 1})
    ((_, picture),) = images.unpublished(0, 9)
    assert studio.gallery.read(picture.image) == b"another"


def test_an_idle_worker_says_so(studio: Studio, start: Start) -> None:
    """Whoever waits for all pictures can see that there are none left."""
    worker = studio.worker()
    assert not worker.state().is_idle
    start(worker)
    until(lambda: worker.state().is_idle)
