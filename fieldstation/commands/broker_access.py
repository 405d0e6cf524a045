"""Which broker a command talks to, and what opens it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context
from fieldstation.config import read_password

if TYPE_CHECKING:
    from fieldstation.mqtt.connection import Access


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


def access_of(args: argparse.Namespace, context: Context) -> Access:
    """Return what opens the broker; the embedded one is opened as its reader.

    Raises:
        MendableError: no such broker, or its password cannot be read.
    """
    from fieldstation.mqtt.broker import read_access
    from fieldstation.mqtt.connection import Access, BrokerUrl

    mqtt = replace(
        context.settings.mqtt,
        url=args.broker or context.settings.mqtt.url,
        password_file=args.password_file or context.settings.mqtt.password_file,
        ca_file=args.ca_file or context.settings.mqtt.ca_file,
    )
    if mqtt.url == "embedded":
        return read_access(context.state.broker)
    url = BrokerUrl.parse(mqtt.url)
    url = replace(url, username=url.username or mqtt.username or None)
    return Access(url, read_password(mqtt), mqtt.ca_file)
