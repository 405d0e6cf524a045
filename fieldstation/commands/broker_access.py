"""Which broker a command talks to, and what opens it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context

if TYPE_CHECKING:
    from fieldstation.mqtt.connection import Access

GIVEN = ("password_file", "ca_file", "certificate_file", "key_file")


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
