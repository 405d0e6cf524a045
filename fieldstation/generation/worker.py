"""A stage that paints: claims what waits, paints, writes the file, records it; nothing is lost.

Painting runs in a thread of its own, at the lowest of priorities. This one claims, records and
beats meanwhile, so that a lock of the log's is never held by a thread that is not run.

    exception -> golden input: fails too -> the painter's fault: the CPU takes over, or we end
                               succeeds  -> a job's fault: each alone, then counted against it
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from fieldstation.errors import PassingError
from fieldstation.generation.artist import Painted
from fieldstation.generation.conditions import Unpaintable
from fieldstation.generation.denoiser import ON_CPU
from fieldstation.generation.low_priority import compute_when_idle
from fieldstation.records import Image, Job

log = logging.getLogger(__name__)

TURN_S = 0.5
"""Longest wait between two beats"""
POLL_S = 1.0
"""How often an empty queue is looked into"""
BATCH_S = 8.0
"""A batch shall take no longer: others wait for it, and so does who stops us"""
MOST_AT_ONCE = 8
HANGS_S = 600.0
"""Painting a batch that takes so long has hung. On a CPU the processor's time counts: where others
want it all, an idle thread gets none for as long as they do"""
LONGEST_WAIT_S = 30.0
REASON_LENGTH = 300

T = TypeVar("T")


class Artist(Protocol):
    """Who paints."""

    @property
    def generator_id(self) -> str:
        """Return which generator it is."""
        ...

    @property
    def encoder_id(self) -> str:
        """Return whose embeddings it knows."""
        ...

    @property
    def provider(self) -> str:
        """Return what really runs it."""
        ...

    def check(self) -> None:
        """See that it paints what it must.

        Raises:
            Exception: it does not.
        """
        ...

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Return the jobs' pictures, in their order."""
        ...


class Queue(Protocol):
    """Where jobs come from and pictures go; see store/jobs.py."""

    def take_over(self, workers: Sequence[str]) -> int:
        """Take back the claims of dead workers; return how many there were."""
        ...

    def claim(self, worker: str, n: int, encoder_id: str) -> list[Job]:
        """Return at most `n` jobs that are this worker's now; none with another encoder's call."""
        ...

    def finish(self, job: Job, worker: str, image: Image) -> bool:
        """Record a job's picture and end the job."""
        ...

    def fail(self, job: Job, worker: str, reason: str, for_good: bool = False) -> bool:
        """Count an exception; return whether the job is parked now."""
        ...

    def give_back(self, jobs: Sequence[Job], worker: str) -> None:
        """Let others have jobs that were not painted."""
        ...


class Gallery(Protocol):
    """Where files go."""

    def write(self, name: str, png: bytes) -> None:
        """Write a picture in one step."""
        ...


class PainterBroken(PassingError):
    """The generator does not even paint its golden input any more, or does not come back."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """For who watches."""

    provider: str = ""
    n_painted: int = 0
    n_failed: int = 0
    ms_per_image: float = 0.0
    """Of the last batch"""
    is_idle: bool = False
    """It looked, and nothing was there to be painted"""
    fell_back: str = ""
    """Why the CPU took over; empty where it did not"""
    fault: str = ""
    """Why no picture can be kept just now"""


class Worker:
    """A stage; see the module."""

    def __init__(
        self,
        name: str,
        dead: Sequence[str],
        queue: Queue,
        gallery: Gallery,
        name_of: Callable[[Job, str, int], str],
        open_artist: Callable[[bool], Artist],
        *,
        wall: Callable[[], int],
        away: tuple[type[Exception], ...],
        on_painted: Callable[[], None] = lambda: None,
        poll_s: float = POLL_S,
        hangs_s: float = HANGS_S,
    ) -> None:
        """Open the generator; nothing is painted before `run`.

        Args:
            name: whose claims they are; nobody else has it.
            dead: workers of whom we know that they are: what they had claimed is free at once.
            name_of: job, generator and seed -> the file's name.
            open_artist: makes who paints; True: on the CPU.
            wall: the instant now.
            away: what queue and gallery raise while log or disk are not to be had.
            on_painted: called after a picture was recorded.

        Raises:
            MendableError: the bundle cannot be painted with.
        """
        self._name = name
        self._dead = tuple(dead)
        self._queue = queue
        self._gallery = gallery
        self._name_of = name_of
        self._open_artist = open_artist
        self._wall = wall
        self._away = away
        self._on_painted = on_painted
        self._poll_s = poll_s
        self._hangs_s = hangs_s
        # The runtime's own threads inherit the priority of the one that opens the session.
        self._hand = ThreadPoolExecutor(1, "painting", initializer=compute_when_idle)
        self._work: Future[Any] = self._hand.submit(open_artist, False)
        self._artist: Artist = self._work.result()
        self._on_cpu = self._artist.provider in ON_CPU
        self._at_once = 1
        self._claim_is_open = False
        self._state = WorkerState(provider=self._artist.provider)
        self._stop = threading.Event()
        self._beat: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Paint until told to stop; what is then unfinished is given back.

        Raises:
            PainterBroken: it cannot paint any more; another process might.
        """
        self._stop, self._beat = stop, beat
        try:
            n_left = self._insist(lambda: self._queue.take_over(self._dead))
            if n_left:
                log.info("%d jobs of a worker that died are taken up again", n_left)
            while not stop.is_set():
                jobs = self._insist(self._claim)
                self._state = replace(self._state, is_idle=not jobs)
                if jobs:
                    self._paint(jobs)
                else:
                    self._rest(self._poll_s)
        finally:
            self._hand.shutdown(wait=False, cancel_futures=True)

    def _claim(self) -> list[Job]:
        """Claim what is next; what a claim of ours took whose answer was lost is ours again."""
        if self._claim_is_open:
            self._queue.take_over([self._name])
        self._claim_is_open = True
        jobs = self._queue.claim(self._name, self._at_once, self._artist.encoder_id)
        self._claim_is_open = False
        return jobs

    def state(self) -> WorkerState:
        """Return how it is."""
        return self._state

    @property
    def is_painting(self) -> bool:
        """Return whether the other thread works; it cannot be interrupted."""
        return not self._work.done()

    def _paint(self, jobs: Sequence[Job]) -> None:
        """Paint claimed jobs, and keep the pictures; or find out whose fault it was."""
        began = time.monotonic()
        painting = self._work = self._hand.submit(self._artist.paint, jobs)
        if not self._has_ended(painting):
            self._give_back(jobs)
            return
        if error := painting.exception():
            self._look_into(jobs, error)
            return
        self._keep(jobs, painting.result(), time.monotonic() - began)

    def _has_ended(self, work: Future[T]) -> bool:
        """Wait for the other thread; False when we were told to stop before.

        Raises:
            PainterBroken: it does not come back.
        """
        clock = time.process_time if self._on_cpu else time.monotonic
        ends_at = clock() + self._hangs_s
        while not work.done() and not self._stop.is_set():
            wait([work], TURN_S)
            self._beat()
            if clock() > ends_at and not work.done():
                raise PainterBroken(
                    f"painting has hung for {self._hangs_s:g} s on {self._state.provider}"
                )
        return work.done()

    def _keep(self, jobs: Sequence[Job], pictures: Sequence[Painted], took_s: float) -> None:
        """Write and record the pictures of a batch."""
        ms = 1_000 * took_s / len(jobs)
        self._pace(len(jobs), took_s)
        for index, (job, painted) in enumerate(zip(jobs, pictures, strict=True)):
            if not self._keep_one(job, painted, ms):
                self._give_back(jobs[index:])
                return
        self._state = replace(
            self._state, n_painted=self._state.n_painted + len(jobs), ms_per_image=ms
        )

    def _keep_one(self, job: Job, painted: Painted, ms: float) -> bool:
        """Write and record a picture, however long that takes; False if told to stop before."""
        image = self._image(job, painted, ms)
        if not self._insist(lambda: self._record(job, painted, image)):
            return False
        log.info(
            "picture of %s (%s), %.2f: %s, %.0f ms",
            *(job.common_name, job.scientific_name, job.probability, image.file, ms),
        )
        self._on_painted()
        return True

    def _record(self, job: Job, painted: Painted, image: Image) -> bool:
        self._gallery.write(str(image.file), painted.png)
        self._queue.finish(job, self._name, image)
        return True

    def _image(self, job: Job, painted: Painted, ms: float) -> Image:
        generator_id = self._artist.generator_id
        return Image(
            event_id=job.event_id,
            station=job.station,
            generator_id=generator_id,
            seed=painted.seed,
            is_of_call=job.embedding is not None,
            file=self._name_of(job, generator_id, painted.seed),
            width=painted.width,
            height=painted.height,
            n_bytes=len(painted.png),
            sha256=sha256(painted.png).hexdigest(),
            made_at=self._wall(),
            paint_ms=ms,
            provider=self._note_provider(),
        )

    def _pace(self, n: int, took_s: float) -> None:
        """Choose how many to claim next: as many as `BATCH_S` is enough for."""
        fits = int(BATCH_S * n / max(took_s, 1e-3))
        # Not more than twice as many: the first batch pays for warming up, or is lucky.
        self._at_once = max(1, min(fits, 2 * n, MOST_AT_ONCE))

    def _note_provider(self) -> str:
        """Return what runs the generator; tell when it is not what did before."""
        provider = self._artist.provider
        if provider != self._state.provider:
            log.warning(
                "the generator runs on %s now, no more on %s", provider, self._state.provider
            )
            self._state = replace(self._state, provider=provider)
        return provider

    def _look_into(self, jobs: Sequence[Job], error: BaseException) -> None:
        """Find out whose fault an exception was, and act on it."""
        reason = f"{type(error).__name__}: {error}"[:REASON_LENGTH]
        log.warning("painting %d failed: %s", len(jobs), reason)
        self._at_once = 1
        if not isinstance(error, Unpaintable) and not self._is_well():
            if self._stop.is_set():  # whose fault it was is not known
                self._give_back(jobs)
                return
            self._fall_back(jobs, reason)
            self._paint(jobs)
        elif len(jobs) > 1:
            self._paint_alone(jobs)
        else:
            self._blame(jobs[0], error, reason)

    def _is_well(self) -> bool:
        """Return whether the golden input still comes out right; not if we are told to stop."""
        check = self._work = self._hand.submit(self._artist.check)
        return self._has_ended(check) and check.exception() is None

    def _fall_back(self, jobs: Sequence[Job], reason: str) -> None:
        """Let the CPU take over for the rest of this run.

        Raises:
            PainterBroken: it had taken over already.
        """
        if self._on_cpu:
            self._give_back(jobs)
            raise PainterBroken(f"the generator fails on its golden input too: {reason}")
        log.error(
            "%s does not paint any more (%s): the CPU takes over", self._state.provider, reason
        )
        self._artist = self._hand.submit(self._open_artist, True).result()
        self._on_cpu = True
        self._state = replace(self._state, fell_back=f"{self._state.provider} failed: {reason}")
        self._note_provider()

    def _paint_alone(self, jobs: Sequence[Job]) -> None:
        for index, job in enumerate(jobs):
            if self._stop.is_set():
                self._give_back(jobs[index:])
                return
            self._paint([job])

    def _blame(self, job: Job, error: BaseException, reason: str) -> None:
        for_good = isinstance(error, Unpaintable)
        parked = self._insist(lambda: self._queue.fail(job, self._name, reason, for_good))
        self._state = replace(self._state, n_failed=self._state.n_failed + 1)
        if parked:
            log.error("no picture of %s %s: %s", job.common_name, job.event_id, reason)

    def _give_back(self, jobs: Sequence[Job]) -> None:
        self._try(lambda: self._queue.give_back(jobs, self._name))

    def _insist(self, action: Callable[[], T]) -> T | None:
        """Return an action's result, however long log or disk are away; None if told to stop."""
        wait_s = TURN_S
        while True:
            fault, result = self._try(action)
            if not fault:
                return result
            self._rest(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            if self._stop.is_set():
                return None

    def _try(self, action: Callable[[], T]) -> tuple[str, T | None]:
        """Return what was in the way, or the result; tell when a fault begins and ends."""
        fault, result = "", None
        try:
            result = action()
        except self._away as error:
            fault = str(error) or type(error).__name__
        if fault and not self._state.fault:
            log.warning("no picture can be kept: %s; trying again", fault)
        elif self._state.fault and not fault:
            log.info("pictures are kept again")
        self._state = replace(self._state, fault=fault)
        return fault, result

    def _rest(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        self._beat()
        while (left := ends_at - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(min(left, TURN_S))
            self._beat()
