"""What the asking commands share: conditions, and a log that is only read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fieldstation.clock import SystemClock
from fieldstation.commands.context import Context, add_context_arguments
from fieldstation.commands.times import FORMS, parse_when
from fieldstation.errors import MendableError

if TYPE_CHECKING:
    from fieldstation.store.log_db import LogStore
    from fieldstation.store.query import Filter


MOST_ROWS = 2**63 - 1
"""Beyond it neither database can count"""


class QuestionError(MendableError):
    """A condition that cannot be meant."""


def add_question_arguments(parser: argparse.ArgumentParser, species: bool = True) -> None:
    """Add the conditions, --database and where the state is."""
    group = parser.add_argument_group("conditions")
    if species:
        group.add_argument(
            "--species",
            metavar="NAME",
            help="scientific or common name, or the beginning of a word of it",
        )
        group.add_argument("--min-probability", type=float, metavar="P", help="0 to 1")
    group.add_argument("--since", metavar="WHEN", help=FORMS)
    group.add_argument("--until", metavar="WHEN", help="before then; written like --since")
    group.add_argument("--station", metavar="NAME", help="only this station's")
    group.add_argument("--database", metavar="URL", help="a log elsewhere; default: this station's")
    add_context_arguments(parser)


def filter_of(args: argparse.Namespace, context: Context) -> Filter:
    """Return the conditions.

    Raises:
        MendableError: a time, probability or limit that cannot be meant.
    """
    from fieldstation.store.query import Filter

    probability = getattr(args, "min_probability", None)
    if probability is not None and not 0 <= probability <= 1:
        raise QuestionError(f"--min-probability is {probability}; 0 to 1")
    limit = getattr(args, "limit", None)
    if limit is not None and not 1 <= limit <= MOST_ROWS:
        raise QuestionError(f"--limit is {limit}; 1 to {MOST_ROWS}")
    since, until = between(args, context)
    return Filter(
        species=getattr(args, "species", None),
        since=since,
        until=until,
        min_probability=probability,
        station=args.station,
        limit=limit,
    )


def between(args: argparse.Namespace, context: Context) -> tuple[int | None, int | None]:
    """Return the instants of --since and --until.

    Raises:
        MendableError: not a time, or the end before the start.
    """
    zone, now = context.settings.station.timezone, SystemClock().wall()
    since = parse_when(args.since, zone, now) if args.since else None
    until = parse_when(args.until, zone, now) if args.until else None
    if since is not None and until is not None and until <= since:
        raise QuestionError(f"--until {args.until} is not after --since {args.since}")
    return since, until


@contextmanager
def read_log(context: Context, may_be_missing: bool = False) -> Iterator[LogStore | None]:
    """Give the log, opened for reading; None where it may be missing and is.

    Raises:
        StoreError: it cannot be read.
    """
    from fieldstation.store.database import file_of
    from fieldstation.store.log_db import LogStore

    path = file_of(context.log_url())
    if may_be_missing and path is not None and not path.exists():
        yield None
        return
    log = LogStore(context.log_url(), readonly=True)
    try:
        yield log
    finally:
        log.close()
