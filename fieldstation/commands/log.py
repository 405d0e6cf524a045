"""Be the logger alone: write what every station of a broker tells into one log, and confirm it."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from fieldstation.commands.broker_access import access_of, add_broker_arguments
from fieldstation.commands.context import (
    Context,
    add_context_arguments,
    load_context,
    with_database,
)
from fieldstation.errors import redacted
from fieldstation.state import State

if TYPE_CHECKING:
    from fieldstation.store.job_maker import JobMaker

EXAMPLES = """  fieldstation log --broker mqtt://hub.local --database sqlite:////srv/birds.db
  fieldstation log --broker mqtts://logger@hub.example --password-file /etc/fieldstation/password \\
      --database postgresql:///birds
Stations that shall trust this logger name its id, which it prints: [mqtt] trust = "…"
"""

CHORES_DEADLINE_S = 3_600.0
"""Removing a season of pictures is one turn of its loop"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:////path or postgresql://…; default: log.db in the state folder",
    )
    parser.add_argument("--station", metavar="NAME", help="log only this station; default: all")
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="queue what stations hear for a `fieldstation worker`, as generation.enabled = true",
    )
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="of that worker")
    add_broker_arguments(parser)
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Log until SIGTERM or Ctrl-C."""
    from fieldstation import schedule
    from fieldstation.ageing import AgeingClock
    from fieldstation.clock import SystemClock
    from fieldstation.gallery import Gallery
    from fieldstation.hub_pictures import HubPictures
    from fieldstation.mqtt.connection import Connection
    from fieldstation.mqtt.logger import Logger
    from fieldstation.notify import Notifier
    from fieldstation.schedule import Chores
    from fieldstation.store.errors import AWAY
    from fieldstation.store.late_log import LateLog
    from fieldstation.supervisor import Supervisor
    from fieldstation.upkeep import LogUpkeep

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    for noisy in ("apscheduler", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    context = with_database(load_context(args), args.database)
    # A hub on a station's machine is another client with another key.
    state = State(context.state.folder / "hub")
    state.prepare()
    access = access_of(args, context)
    faulthandler.enable()  # the watchdog's SIGABRT leaves every thread's stack in the journal
    clock, notifier = SystemClock(), Notifier()
    with state.lock():
        url = replace(context, state=state).log_url()
        log = LateLog(url, _job_maker(args, context), state.backups)
        gallery = Gallery(context.state.images)
        ageing = AgeingClock(clock, state.notes())
        pictures = HubPictures(log, gallery, context.settings.generation, ageing)
        upkeep = Chores(LogUpkeep(log, url, state, context.settings, ageing).chores())
        key = state.key()
        logger = Logger(
            Connection(access),
            log,
            key,
            station=args.station,
            pictures=pictures.intake,
            away=AWAY,
        )
        supervisor = Supervisor(clock, notifier)
        supervisor.take_signals()
        print(f"broker  {access.url}\nlog     {redacted(url)}")
        print(f'id      {key}   (stations that trust it: [mqtt] trust = "{key}")', flush=True)
        stages = [
            supervisor.start("chores", pictures.chores, CHORES_DEADLINE_S),
            supervisor.start("upkeep", upkeep, CHORES_DEADLINE_S),
        ]
        stages.append(supervisor.start("logger", logger))
        scheduler = schedule.start([upkeep], context.settings.station.timezone)
        notifier.ready()
        try:
            supervisor.watch(tick=pictures.tick)
        finally:
            notifier.stopping()
            scheduler.shutdown(wait=False)
            for stage in stages:
                stage.stop()
            log.close()
    return 0


def _job_maker(args: argparse.Namespace, context: Context) -> JobMaker | None:
    """Return what queues events for a worker; None where a hub is not asked to."""
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.pictures import policy_of
    from fieldstation.store.job_maker import JobMaker

    if not (args.pictures or context.settings.generation.enabled):
        return None
    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    return JobMaker(policy_of(context.settings.generation, bundle))
