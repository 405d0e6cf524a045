"""Which broker a command talks to, and what opens it."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context
from fieldstation.errors import MendableError, PassingError

if TYPE_CHECKING:
    from fieldstation.mqtt.connection import Access, Connection

BROKER_S = 15.0
"""How long a broker may take to accept us"""
REFUSALS = ("the broker refuses", "cannot connect: its certificate")
GIVEN = ("password_file", "ca_file", "certificate_file", "key_file")


class Refused(MendableError):
    """The broker does not let us in, or is not the one it should be."""


class NoAnswer(PassingError):
    """The broker is not to be had just now."""


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --broker and what goes with it."""
    group = parser.add_argument_group("broker")
    group.add_argument(
        "--broker",
        metavar="URL",
        help="mqtt://[user@]host[:port] or mqtts://…; default: the settings'",
    )
    group.add_argument("--password-file", metavar="FILE", help="or FIELDSTATION_MQTT_PASSWORD")
    group.add_argument("--ca-file", metavar="FILE", help="certificate authority of mqtts://")
    group.add_argument("--certificate-file", metavar="FILE", help="our own, if the broker wants it")
    group.add_argument("--key-file", metavar="FILE", help="its key, unless in the same file")


def access_of(args: argparse.Namespace, context: Context, own: bool = False) -> Access:
    """Return what opens the broker; the embedded one is opened as its reader.

    Args:
        own: open the embedded one as its station, whose worker may write.

    Raises:
        MendableError: no such broker, or its password cannot be read.
    """
    from fieldstation.access import access_to
    from fieldstation.mqtt.broker import own_access, read_access

    given = {name: value for name in GIVEN if (value := getattr(args, name))}
    mqtt = replace(context.settings.mqtt, **given, url=args.broker or context.settings.mqtt.url)
    if mqtt.url != "embedded":
        return access_to(mqtt)
    return (own_access if own else read_access)(context.state.broker)


def wait_for_broker(connection: Connection, up: Event, patience_s: float = BROKER_S) -> None:
    """Wait until an open connection is up.

    Args:
        up: set by its listener.

    Raises:
        Refused: the broker does not let us in.
        NoAnswer: there is none.
    """
    deadline = time.monotonic() + patience_s
    while not up.wait(0.05):
        fault = connection.state().fault
        if fault or time.monotonic() > deadline:
            said = f"{connection.access.url}: {fault.removesuffix('; trying again') or 'no answer'}"
            if fault.startswith(REFUSALS):
                raise Refused(said)
            own = bool(connection.access.socket)
            mend = "start the station, whose broker it is" if own else "start the broker"
            raise NoAnswer(f"{said}: {mend}, or name another")
