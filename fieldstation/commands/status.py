"""Show how stations are, from their broker: since when, hearing, queue, and what is wrong.

The broker keeps each station's newest status and health, so it answers at once, also for one that
is away. It exits 0 if all are online and well, 1 if one is not or no broker answers, 2 if the
broker refuses us or a setting is to be mended.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fieldstation.cli import EXIT_FAILED
from fieldstation.clock import US_PER_S, SystemClock, format_instant, local
from fieldstation.commands.broker_access import (
    access_of,
    add_broker_arguments,
    wait_for_broker,
)
from fieldstation.commands.context import add_context_arguments, load_context
from fieldstation.commands.rows import write_rows
from fieldstation.errors import MendableError

if TYPE_CHECKING:
    from fieldstation.mqtt.connection import Connection, Delivery, Ticket

EXAMPLES = """  fieldstation status                                       this machine's station
  fieldstation status --broker mqtts://anna@hub.example --password-file password
  fieldstation status hedge wood --json
  fieldstation status hedge >/dev/null || mail -s "hedge is not well" anna </dev/null
"""

KINDS = ("status", "health")
COLUMNS = ("station", "state", "since", "health", "heard_today", "lost_today", "events",
           "waiting", "to_paint", "wrong")  # fmt: skip
HEALTH_S = 150.0
"""Health comes every minute: twice missed, something is wrong"""
QUIET_S = 0.4
"""The broker sends what it kept without a pause; after one, that was all"""
LONGEST_S = 1e9
MAX_WAIT_S = 3_600.0


class StatusError(MendableError):
    """An option that cannot be meant."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a broker has of one station."""

    station: str
    online: bool = False
    online_at: int | None = None
    """When it came online, where it is"""
    version: str | None = None
    health_at: int | None = None
    """When it last told its health, by its own clock"""
    values: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    """Why a message of it could not be read"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("stations", nargs="*", metavar="STATION", help="default: all there are")
    parser.add_argument("--json", action="store_true", help="all that was told, for programs")
    parser.add_argument(
        "--wait",
        type=float,
        default=2.0,
        metavar="S",
        help="how long a named station may take to be heard of (default: 2)",
    )
    add_broker_arguments(parser)
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the stations; 0 if all are online and well, else 1."""
    from fieldstation.mqtt.connection import Connection
    from fieldstation.mqtt.messages import topic_level

    if not 0 <= args.wait <= MAX_WAIT_S:
        raise StatusError(f"--wait is {args.wait}; 0 to {MAX_WAIT_S:g}")
    logging.basicConfig(level=logging.ERROR)  # what the connection reports is our error
    context = load_context(args)
    named = {topic_level(name) for name in args.stations}
    deliveries = gather(Connection(access_of(args, context)), named, args.wait)
    found = reports(deliveries)
    chosen = [found.get(name, Report(name)) for name in sorted(named or found)]
    now = SystemClock().wall()
    if args.json:
        print(json.dumps([as_json(report, now) for report in chosen], indent=1))
    else:
        rows = [as_row(report, now, context.settings.station.timezone) for report in chosen]
        write_rows(rows, COLUMNS, "table", None)
    if not chosen:
        print("no station has told this broker anything yet")
    well = chosen and not any(wrong(report, now) for report in chosen)
    return 0 if well else EXIT_FAILED


# From the broker


class Inbox:
    """Keeps what the network thread hands over, and when the last came that the broker had kept."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.deliveries: list[Delivery] = []
        self.last_at = 0.0

    def on_up(self) -> None:
        """Begin to wait for silence."""
        self.last_at = time.monotonic()
        self.up.set()

    def on_message(self, delivery: Delivery) -> None:
        """Keep it. What stations tell just now breaks no silence: a large hub has none."""
        self.deliveries.append(delivery)
        if delivery.retained:
            self.last_at = time.monotonic()

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Do nothing: who asks publishes nothing."""


def gather(connection: Connection, named: set[str], patience_s: float) -> list[Delivery]:
    """Return what the broker has kept of every station's status and health.

    Args:
        named: stations to wait for, as topic levels.
        patience_s: how long, at most.

    Raises:
        Refused: the broker does not let us in.
        NoAnswer: there is none.
    """
    from fieldstation.mqtt.connection import Session, Subscription
    from fieldstation.mqtt.messages import every_station

    wanted = tuple(Subscription(every_station(kind), own=True) for kind in KINDS)
    inbox = Inbox()
    with connection.open(Session(f"status-{uuid.uuid4().hex[:12]}", wanted), inbox):
        wait_for_broker(connection, inbox.up)
        gives_up_at = time.monotonic() + patience_s
        while time.monotonic() - inbox.last_at < QUIET_S or (
            not _all_told(named, inbox.deliveries) and time.monotonic() < gives_up_at
        ):
            time.sleep(0.02)
    return inbox.deliveries


def _all_told(named: set[str], deliveries: Iterable[Delivery]) -> bool:
    told = {delivery.topic for delivery in deliveries}
    return all(f"fieldstation/{name}/{kind}" in told for name in named for kind in KINDS)


def reports(deliveries: Iterable[Delivery]) -> dict[str, Report]:
    """Return what each station told; of two messages of a kind the later counts."""
    from fieldstation.mqtt import messages

    found: dict[str, Report] = {}
    for delivery in deliveries:
        name = delivery.topic.split("/")[1]
        known = found.get(name, Report(name))
        try:
            found[name] = _with(known, delivery)
        except messages.Unfit as error:
            found[name] = replace(known, unread=(*known.unread, f"not understood: {error}"))
    return found


def _with(known: Report, delivery: Delivery) -> Report:
    from fieldstation.mqtt import messages

    if delivery.topic.endswith("/status"):
        status = messages.read_status(delivery.topic, delivery.payload)
        return replace(known, online=status.online, online_at=status.at, version=status.version)
    health = messages.read_health(delivery.topic, delivery.payload)
    return replace(known, health_at=health.at, values=health.values)


# What it means


def wrong(report: Report, now: int) -> list[str]:
    """Return what is wrong with a station, worst first; nothing if all is well."""
    found = [*report.unread]
    if not report.online:
        return [*found, "offline" if report.health_at or report.version else "never heard of"]
    told_at = report.health_at or report.online_at or 0
    age_s = (now - told_at) / US_PER_S
    if age_s > HEALTH_S:
        found.append(f"no health for {in_words(age_s)}")
    elif age_s < -HEALTH_S:
        found.append(f"its clock or ours is wrong by {in_words(-age_s)}")
    problems = report.values.get("problems")
    return found + (list(map(str, problems)) if isinstance(problems, list) else [])


def in_words(seconds: float) -> str:
    """Return a length of time in its largest two units: `2 h 5 min`."""
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    parts: list[str] = []
    left = round(seconds)
    for size, name in units:
        n, left = divmod(left, size)
        if n or (name == "s" and not parts):
            parts.append(f"{n} {name}")
    return " ".join(parts[:2])


def as_row(report: Report, now: int, timezone: str) -> dict[str, object]:
    """Return a line of the table; times in the zone of who asks."""
    since = report.online_at if report.online else report.health_at
    age_s = None if report.health_at is None else max(0, now - report.health_at) / US_PER_S
    return {
        "station": report.station,
        "state": "online" if report.online else "OFFLINE",
        "since": "" if since is None else _when(since, timezone),
        "health": "" if age_s is None else f"{in_words(age_s)} ago",
        "heard_today": _share_of_today(report.values, "heard_today_s"),
        "lost_today": _share_of_today(report.values, "lost_today_s"),
        "events": report.values.get("n_events"),
        "waiting": report.values.get("n_waiting"),
        "to_paint": report.values.get("n_pictures_waiting"),
        "wrong": "; ".join(wrong(report, now)),
    }


def _when(at: int, timezone: str) -> str:
    try:
        return f"{local(at, timezone):%Y-%m-%d %H:%M}"
    except OverflowError:  # a clock at the end of the calendar has no local time
        return format_instant(at)


def _share_of_today(values: Mapping[str, Any], name: str) -> str:
    """Return how long it was, and its share of what could have been heard; or nothing."""
    part = _number(values, name)
    whole = _number(values, "heard_today_s") + _number(values, "lost_today_s")
    if name not in values or not whole > 0:
        return ""
    return f"{in_words(part)} ({100 * part / whole:.1f} %)"


def _number(values: Mapping[str, Any], name: str) -> float:
    """Return a value that a station told, which may be anything."""
    value = values.get(name)
    if not isinstance(value, int | float) or not 0 <= value < LONGEST_S:
        return 0.0
    return float(value)


def as_json(report: Report, now: int) -> dict[str, object]:
    """Return all that is known of a station, for programs."""
    return {
        "station": report.station,
        "online": report.online,
        "online_at": format_instant(report.online_at) if report.online_at else None,
        "version": report.version,
        "health_at": format_instant(report.health_at) if report.health_at else None,
        "wrong": wrong(report, now),
        "health": dict(report.values),
    }
