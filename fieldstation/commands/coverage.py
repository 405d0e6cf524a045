"""Ask when the station heard, and when it did not and why: of the last 24 hours, unless told.

The sums add up to what was asked.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fieldstation.clock import US_PER_S, SystemClock, format_instant, local
from fieldstation.commands.context import load_context, with_database
from fieldstation.commands.questions import (
    QuestionError,
    add_question_arguments,
    between,
    read_log,
)
from fieldstation.commands.rows import add_format_argument, write_rows

if TYPE_CHECKING:
    from fieldstation.commands.context import Context
    from fieldstation.records import Interval
    from fieldstation.store.coverage_query import Coverage

EXAMPLES = """  fieldstation coverage --since today
  fieldstation coverage --since 7d --intervals
  fieldstation coverage --station hedge --database postgresql:///birds --format jsonl
"""

SUMS = ("station", "state", "cause", "seconds", "share", "n")
INTERVALS = ("station", "started_at", "local", "seconds", "state", "cause", "run_id")
PULSE = "pulse"
DAY_US = 86_400 * US_PER_S


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add_question_arguments(parser, species=False)
    parser.add_argument("--intervals", action="store_true", help="every interval, not the sums")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print sums a state and cause, or the intervals; default: the last 24 hours.

    Without --station and --database this station's own ledger is read, which knows more than
    the log: also what has not been delivered yet, and what a running station hears just now. What
    is older than the ledger comes from the log.
    """
    context = with_database(load_context(args), args.database)
    since, until = between(args, context)
    until = SystemClock().wall() if until is None else until
    since = until - DAY_US if since is None else since
    if until <= since:
        raise QuestionError(f"--since {args.since} is not in the past: nothing is covered yet")

    from fieldstation.store.coverage_query import coverage

    own = args.database is None and args.station is None and context.state.station_db.exists()
    if own:
        found, name = _own(context, since, until)
    else:
        with read_log(context) as log:
            assert log is not None
            found = coverage(log, since, until, args.station)
        name = args.station or context.settings.station.name
    zone = context.settings.station.timezone
    if args.intervals:
        write_rows(_intervals(found, zone, name), INTERVALS, args.format, args.output)
    else:
        rows = _sums(found, (until - since) / US_PER_S, name)
        write_rows(rows, SUMS, args.format, args.output)
    return 0


def _own(context: Context, since: int, until: int) -> tuple[Coverage, str]:
    """Return what the station's own ledger tells, and what it called itself when it last ran."""
    from fieldstation.store.coverage_query import own_coverage
    from fieldstation.store.station_db import KEEP_DELIVERED_DAYS, NAME, StationStore

    is_old = since < SystemClock().wall() - KEEP_DELIVERED_DAYS * DAY_US
    asks_log = is_old and context.settings.log.enabled
    store = StationStore(context.state.station_db, readonly=True)
    try:
        with read_log(context, may_be_missing=True) if asks_log else nullcontext() as log:
            key = context.state.draw_key()
            found = own_coverage(store, since, until, _newest(context), log, key)
        return found, store.meta(NAME) or context.settings.station.name
    finally:
        store.close()


def _newest(context: Context) -> Interval | None:
    """Return the interval that grows in the running station, or grew when it was killed."""
    from fieldstation.coverage import read_pulse

    vitals = context.state.told_vitals()
    return read_pulse(vitals.read(PULSE)) if vitals else None


def _sums(coverage: Coverage, asked_s: float, own_name: str) -> list[dict[str, object]]:
    """Return a row a station, state and cause, and one for what no run recorded."""
    rows: list[dict[str, object]] = []
    stations = {s.station for s in coverage.sums} or {""}
    for station in sorted(stations):
        name = station or own_name
        known_s = 0.0
        for s in (s for s in coverage.sums if s.station == station):
            is_time = s.state in ("heard", "lost")
            known_s += s.duration_s if is_time else 0.0
            rows.append(
                {
                    "station": name,
                    "state": str(s.state),
                    "cause": s.cause,
                    "seconds": round(s.duration_s, 3),
                    "share": round(s.duration_s / asked_s, 4) if is_time else None,
                    "n": s.n,
                }
            )
        unknown_s = asked_s - known_s
        rows.append(
            {
                "station": name,
                "state": "unrecorded",
                "cause": "no run of the station, or its newest seconds",
                "seconds": round(unknown_s, 3),
                "share": round(unknown_s / asked_s, 4),
            }
        )
    return rows


def _intervals(coverage: Coverage, zone: str, own_name: str) -> list[dict[str, object]]:
    return [
        {
            "station": stretch.station or own_name,
            "started_at": format_instant(stretch.interval.started_at),
            "local": f"{local(stretch.interval.started_at, zone):%Y-%m-%d %H:%M:%S}",
            "seconds": round(stretch.interval.duration_s, 3),
            "state": str(stretch.interval.state),
            "cause": stretch.interval.cause,
            "run_id": stretch.interval.run_id,
        }
        for stretch in coverage.stretches
    ]
