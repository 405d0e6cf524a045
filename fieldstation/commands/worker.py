"""Paint what a log has queued: beside a station, or on another machine for stations without a GPU.

Gives way to everything else on its machine. Several may work on one log.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fieldstation.cli import EXIT_FAILED
from fieldstation.commands.broker_access import access_of, add_broker_arguments
from fieldstation.commands.context import (
    Context,
    add_context_arguments,
    add_runtime_argument,
    load_context,
    with_database,
    with_runtime,
)
from fieldstation.errors import MendableError, redacted
from fieldstation.memory import give_back_freed_memory
from fieldstation.state import Lock, State, StateError

if TYPE_CHECKING:
    from fieldstation.bundle import Bundle
    from fieldstation.generation.artist import Artist
    from fieldstation.generation.worker import Worker
    from fieldstation.mqtt.connection import Access
    from fieldstation.mqtt.pictures import PicturePublisher
    from fieldstation.records import Job
    from fieldstation.store.images import Images
    from fieldstation.store.late_log import LateLog

EXAMPLES = """  fieldstation worker                     for this machine's station
  fieldstation worker --once              paint what waits, then end
  fieldstation worker --broker mqtts://hub.example --database postgresql://birds@hub.example/birds
"""

MOST_WORKERS = 16
"""On one state folder"""

DEADLINE_S = 60.0
"""At the lowest priority of a busy machine, a turn may take a while"""


class WorkerError(MendableError):
    """There is nothing to paint here, or there are workers enough."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--database", metavar="URL", help="log, over the settings'")
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="model, over the settings'")
    add_runtime_argument(parser)
    parser.add_argument(
        "--images", metavar="FOLDER", help="where pictures go; default: images in the state folder"
    )
    parser.add_argument("--once", action="store_true", help="end when nothing waits any more")
    parser.add_argument(
        "--if-wanted",
        action="store_true",
        help="end well where settings or bundle want no pictures (for a service)",
    )
    add_broker_arguments(parser)
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Paint until SIGTERM or Ctrl-C; with --once until the queue is empty."""
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.generation.low_priority import give_way
    from fieldstation.store.late_log import LateLog

    give_way()
    give_back_freed_memory()
    take_logging()
    context = with_runtime(with_database(load_context(args), args.database), args.runtime)
    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    if reason := _why_not(context, bundle):
        return _leave_unwanted(reason, args.if_wanted)
    slot, lock = take_slot(context.state)
    with lock:
        late_log = LateLog(context.log_url())
        try:
            return _work(args, context, bundle, slot, late_log)
        finally:
            late_log.close()


def _why_not(context: Context, bundle: Bundle) -> str:
    """Return why there is nothing to paint, and the mend; empty where there is."""
    if context.settings.generation.enabled is False:
        return "generation.enabled is false: set it to true, or remove the line"
    if bundle.generator is None:
        return f"bundle {bundle.name} does not paint: choose one that does (--bundle)"
    return ""


def _leave_unwanted(reason: str, is_well: bool) -> int:
    """End, well where that was to be expected.

    Raises:
        WorkerError: it was not.
    """
    from fieldstation.notify import Notifier

    if not is_well:
        raise WorkerError(reason)
    print(f"no pictures: {reason}", flush=True)
    Notifier().ready()  # a unit that ends without that word has failed
    return 0


def take_logging() -> None:
    """Send log lines to standard output; the journal, or who started us, adds the times."""
    stamp = "%(asctime)s " if sys.stdout.isatty() else ""
    logging.basicConfig(
        level=logging.INFO, format=f"{stamp}%(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    for noisy in ("alembic", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def take_slot(state: State) -> tuple[State, Lock]:
    """Return the first place among this folder's workers that nobody has, and its lock.

    A place has a key, by which the log knows whose claims are whose: who gets a dead worker's
    place takes up its claims at once.

    Raises:
        MendableError: all are taken, or the folder cannot be written.
    """
    for number in range(1, MOST_WORKERS + 1):
        slot = State(state.folder / "worker" / str(number))
        slot.prepare()
        try:
            return slot, slot.lock()
        except StateError:
            if slot.holder() is None:
                raise
    raise WorkerError(f"{MOST_WORKERS} workers run on {state.folder} already: end one")


def dead_workers(state: State, ours: State) -> list[str]:
    """Return the keys of our own and every other place of this folder that nobody has."""
    places = (State(folder) for folder in sorted((state.folder / "worker").iterdir()))
    free = [place for place in places if place.folder != ours.folder and place.holder() is None]
    return [ours.key(), *(place.key() for place in free)]


def _work(
    args: argparse.Namespace, context: Context, bundle: Bundle, slot: State, late_log: LateLog
) -> int:
    from fieldstation.clock import SystemClock
    from fieldstation.gallery import GalleryError, LimitedGallery
    from fieldstation.generation.artist import display_of
    from fieldstation.generation.worker import Worker
    from fieldstation.mqtt.connection import Connection
    from fieldstation.mqtt.pictures import PicturePublisher
    from fieldstation.pictures import BYTES_PER_MB
    from fieldstation.store.errors import AWAY
    from fieldstation.store.images import Images
    from fieldstation.store.jobs import Jobs

    clock, access = SystemClock(), _access(args, context)
    away = (*AWAY, GalleryError)
    gallery = LimitedGallery(
        Path(args.images) if args.images else context.state.images,
        context.settings.generation.max_size_mb * BYTES_PER_MB,
    )
    gallery.prepare()
    images = Images(lambda: late_log.opened().database, clock.wall)
    publisher = PicturePublisher(
        lambda: Connection(access()),
        f"fieldstation-worker-{slot.key()}",
        images,
        gallery.read,
        display_of,
        away=away,
    )
    worker = Worker(
        slot.key(),
        dead_workers(context.state, slot),
        Jobs(lambda: late_log.opened().database, clock.wall),
        gallery,
        _name,
        _opener(context, bundle),
        wall=clock.wall,
        away=away,
        on_painted=publisher.wake,
    )
    print(f"painter {bundle.name}, on {worker.state().provider}")
    print(f"log     {redacted(context.log_url())}\nimages  {gallery.folder}", flush=True)
    _watch(worker, publisher, lambda: args.once and _is_done(worker, images))
    return 0


def _watch(worker: Worker, publisher: PicturePublisher, is_done: Callable[[], bool]) -> None:
    """Run both stages until a signal, or until all is done."""
    from fieldstation.clock import SystemClock
    from fieldstation.notify import Notifier
    from fieldstation.supervisor import Supervisor

    notifier = Notifier()
    supervisor = Supervisor(SystemClock(), notifier)
    supervisor.take_signals()
    stages = [
        supervisor.start("painting", worker, DEADLINE_S),
        supervisor.start("publishing", publisher, DEADLINE_S),
    ]
    notifier.ready()
    try:
        supervisor.watch(is_done)
    finally:
        notifier.stopping()
        for stage in stages:
            stage.stop()
        if worker.is_painting:
            _leave_at_once(supervisor.failure)


def _is_done(worker: Worker, images: Images) -> bool:
    """Return whether nothing waits to be painted or published."""
    from fieldstation.store.errors import AWAY

    try:
        return worker.state().is_idle and not images.unpublished(0, 1)
    except AWAY:  # the stages say so
        return False


def _leave_at_once(failure: BaseException | None) -> None:
    """End the process under a thread that paints: it cannot be interrupted, nor waited for."""
    if failure is not None:
        print(f"fieldstation worker: {failure}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED if failure else 0)


def _access(args: argparse.Namespace, context: Context) -> Callable[[], Access]:
    """Return what gives the broker's access; the embedded one's may come after us.

    Raises:
        MendableError: a broker's url, password or certificates cannot be used.
    """
    if (args.broker or context.settings.mqtt.url) == "embedded":
        return lambda: access_of(args, context, own=True)
    access = access_of(args, context)
    return lambda: access


def _opener(context: Context, bundle: Bundle) -> Callable[[bool], Artist]:
    """Return what opens the generator; True: on the CPU, whatever the settings say."""
    from fieldstation.generation.artist import Artist
    from fieldstation.generation.runtimes import open_denoiser

    generation = context.settings.generation

    def open_artist(on_cpu: bool) -> Artist:
        provider = "cpu" if on_cpu else generation.provider
        denoiser = open_denoiser(bundle, generation.runtime, provider, generation.threads)
        return Artist(bundle, denoiser)

    return open_artist


def _name(job: Job, generator_id: str, seed: int) -> str:
    from fieldstation.gallery import picture_name

    return picture_name(job.event_id, generator_id, seed, job.started_at, job.timezone)
