"""Show any station's birds live, from its broker, as a subscriber sees them."""

from __future__ import annotations

import argparse
import logging
import queue
import sys
import uuid
from typing import TYPE_CHECKING

from fieldstation.commands.broker_access import access_of, add_broker_arguments
from fieldstation.commands.context import add_context_arguments, load_context
from fieldstation.errors import MendableError

if TYPE_CHECKING:
    from fieldstation.mqtt.connection import Delivery, Ticket

EXAMPLES = """  fieldstation watch                              this machine's station
  fieldstation watch --broker mqtt://hub.local --station hedge
"""

KINDS = ("detection", "status", "summary", "image")
INBOX_LIMIT = 500
"""Messages that may wait for a slow terminal; more are not shown"""


class WatchError(MendableError):
    """An option that cannot be meant."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--station", metavar="NAME", help="only this one; default: every station of the broker"
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after so many birds")
    add_broker_arguments(parser)
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a message until Ctrl-C."""
    from fieldstation.mqtt.connection import Connection, Session, Subscription
    from fieldstation.mqtt.messages import ROOT, Topics

    if args.count is not None and args.count < 1:
        raise WatchError(f"--count is {args.count}; at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    access = access_of(args, load_context(args))
    level = Topics(args.station).level if args.station else "+"
    wanted = tuple(Subscription(f"{ROOT}/{level}/{kind}", own=True) for kind in KINDS)
    inbox = Inbox()
    n_birds = 0
    with Connection(access).open(Session(f"watch-{uuid.uuid4().hex[:12]}", wanted), inbox):
        while args.count is None or n_birds < args.count:
            delivery = inbox.next()
            text = describe(delivery.topic, delivery.payload)
            if text:
                print(text, flush=True)
            n_birds += delivery.topic.endswith("/detection")
    return 0


class Inbox:
    """Hands deliveries from the network thread to the main thread."""

    def __init__(self) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def next(self) -> Delivery:
        """Wait for a delivery; in small steps, so that Ctrl-C is heard."""
        while True:
            try:
                return self._deliveries.get(timeout=0.5)
            except queue.Empty:
                continue

    def on_up(self) -> None:
        """Do nothing: the connection logs it."""

    def on_message(self, delivery: Delivery) -> None:
        """Hand it over, unless the terminal is far behind."""
        if self._deliveries.qsize() < INBOX_LIMIT:
            self._deliveries.put(delivery)

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Do nothing: a watcher publishes nothing."""


def describe(topic: str, payload: bytes) -> str:
    """Return a message as one line for people; what does not fit is said to be so.

    Its topic is shown as ASCII: a stranger may have put into it what turns a line around.
    """
    from fieldstation.clock import local
    from fieldstation.mqtt import messages

    try:
        station, kind = messages.split_topic(topic)
        if kind == "detection":
            d = messages.read_detection(topic, payload)
            at = f"{local(d.started_at, d.timezone):%Y-%m-%d %H:%M:%S}"
            return f"{at}  {station}  {d.probability:.2f}  {d.common_name} ({d.scientific_name})"
        if kind == "status":
            online = messages.read_status(topic, payload).online
            return f"{station} is {'online' if online else 'offline'}"
        if kind == "image":
            picture, _ = messages.read_image(topic, payload)
            at = f"{local(picture.started_at, picture.timezone):%Y-%m-%d %H:%M:%S}"
            return f"{at}  {station}  generated picture of {picture.common_name}"
        summary = messages.read_summary(topic, payload)
        birds = ", ".join(f"{s.common_name} {s.n_events}" for s in summary.species)
        return f"{station} on {summary.date}: {birds or 'nothing heard'}"
    except messages.Unfit as error:
        return f"{topic[:200]!a}: not understood: {error}"
