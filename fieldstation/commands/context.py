"""Options that most commands share, and the settings and state folder they lead to."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from fieldstation import config
from fieldstation.config import Settings, with_option
from fieldstation.records import Place, StationIdentity
from fieldstation.state import State

DEFAULT_BUNDLE = "garden"
"""The one that is shipped"""


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on."""

    settings: Settings
    state: State
    config_path: Path | None

    def identity(self, name: str | None = None, key: str | None = None) -> StationIdentity:
        """Return who this station is, making its key at the first call, unless one is given."""
        station = self.settings.station
        place = Place(station.place or None, station.latitude, station.longitude)
        key = key or self.state.key()
        return StationIdentity(name or station.name, key, station.timezone, place)

    def bundle_name(self) -> str:
        """Return the model to use: the settings', the one that `bundle use` chose, the shipped."""
        return self.settings.model.bundle or self.state.chosen_bundle() or DEFAULT_BUNDLE

    def log_url(self) -> str:
        """Return the SQLAlchemy url of this station's log."""
        return self.state.log_url(self.settings.log.database)


def add_context_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config and --state."""
    group = parser.add_argument_group("where")
    group.add_argument(
        "--config", metavar="FILE", help="settings (TOML); default: the state folder's or /etc's"
    )
    group.add_argument(
        "--state", metavar="FOLDER", help="state folder; default: the service's or your own"
    )


def add_runtime_argument(parser: argparse.ArgumentParser) -> None:
    """Add --runtime, for a command that paints."""
    parser.add_argument(
        "--runtime",
        metavar="onnxruntime|torch",
        help="what computes the pictures, over the settings' (generation.runtime)",
    )


def load_context(args: argparse.Namespace, say: bool = True) -> Context:
    """Find the state folder and read the settings; say on stderr which folder it is.

    Raises:
        ConfigError: a setting cannot be used.
    """
    folder = config.find_state(args.state)
    path = config.find_config(args.config, folder)
    if say:
        print(f"state {folder}{f', settings {path}' if path else ''}", file=sys.stderr)
    settings = config.load(path)
    _hand_over_password(settings)
    return Context(settings, State(folder), path)


def _hand_over_password(settings: Settings) -> None:
    """Give the database's password to its driver the way that keeps it out of every url and text.

    libpq reads PGPASSWORD; so do the processes that we start.
    """
    if secret := config.read_log_password(settings.log):
        os.environ["PGPASSWORD"] = secret


def with_database(context: Context, url: str | None) -> Context:
    """Return the context with another log, where one is named."""
    if url is None:
        return context
    settings = with_option(context.settings, "--database", "log.database", url)
    return replace(context, settings=settings)


def with_runtime(context: Context, name: str | None) -> Context:
    """Return the context with another runtime for pictures, where one is named.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is None:
        return context
    settings = with_option(context.settings, "--runtime", "generation.runtime", name)
    return replace(context, settings=settings)
