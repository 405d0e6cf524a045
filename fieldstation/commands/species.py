"""Ask the log which species were heard, how often, first and last."""

from __future__ import annotations

import argparse

from fieldstation.commands.context import load_context, with_database
from fieldstation.commands.questions import add_question_arguments, filter_of, read_log
from fieldstation.commands.rows import add_format_argument, write_rows

EXAMPLES = """  fieldstation species
  fieldstation species --since 7d --min-probability 0.9
  fieldstation species --station hedge --since 2026-05-01 --until 2026-06-01 --format csv
"""

COLUMNS = ("common_name", "scientific_name", "n", "first_heard", "last_heard", "max_probability")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add_question_arguments(parser)
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one row a species, most heard first; times are local."""
    context = with_database(load_context(args), args.database)
    wanted = filter_of(args, context)

    from fieldstation.clock import local
    from fieldstation.store import query

    zone = context.settings.station.timezone
    with read_log(context) as log:
        assert log is not None
        rows = [
            {
                "common_name": s.common_name,
                "scientific_name": s.scientific_name,
                "n": s.n,
                "first_heard": f"{local(s.first_at, zone):%Y-%m-%d %H:%M:%S}",
                "last_heard": f"{local(s.last_at, zone):%Y-%m-%d %H:%M:%S}",
                "max_probability": s.max_probability,
            }
            for s in query.species(log, wanted)
        ]
    if not write_rows(rows, COLUMNS, args.format, args.output) and args.format == "table":
        print("nothing heard that fits")
    return 0
