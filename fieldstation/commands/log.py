"""Be the logger alone: write what every station of a broker tells into one log, and confirm it."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace

from fieldstation.commands.broker_access import access_of, add_broker_arguments
from fieldstation.commands.context import add_context_arguments, load_context, with_database
from fieldstation.errors import redacted
from fieldstation.state import State

EXAMPLES = """  fieldstation log --broker mqtt://hub.local --database sqlite:////srv/birds.db
  fieldstation log --broker mqtts://logger@hub.example --password-file /etc/fieldstation/password \\
      --database postgresql:///birds
Stations that shall trust this logger name its id, which it prints: [mqtt] trust = "…"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:////path or postgresql://…; default: log.db in the state folder",
    )
    parser.add_argument("--station", metavar="NAME", help="log only this station; default: all")
    add_broker_arguments(parser)
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Log until SIGTERM or Ctrl-C."""
    from fieldstation.clock import SystemClock
    from fieldstation.mqtt.connection import Connection
    from fieldstation.mqtt.logger import Logger
    from fieldstation.notify import Notifier
    from fieldstation.store.errors import StoreUnavailable
    from fieldstation.store.late_log import LateLog
    from fieldstation.supervisor import Supervisor

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    context = with_database(load_context(args), args.database)
    # A hub on a station's machine is another client with another key.
    state = State(context.state.folder / "hub")
    state.prepare()
    access = access_of(args, context)
    clock, notifier = SystemClock(), Notifier()
    with state.lock():
        log = LateLog(replace(context, state=state).log_url())
        key = state.key()
        logger = Logger(
            Connection(access), log, key, station=args.station, away=(StoreUnavailable,)
        )
        supervisor = Supervisor(clock, notifier)
        supervisor.take_signals()
        print(f"broker  {access.url}\nlog     {redacted(replace(context, state=state).log_url())}")
        print(f'id      {key}   (stations that trust it: [mqtt] trust = "{key}")', flush=True)
        stage = supervisor.start("logger", logger)
        notifier.ready()
        try:
            supervisor.watch()
        finally:
            notifier.stopping()
            stage.stop()
            log.close()
    return 0
