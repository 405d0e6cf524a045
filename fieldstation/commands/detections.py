"""Ask the log what was heard, newest first; events not yet delivered are shown as waiting."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context, load_context, with_database
from fieldstation.commands.questions import add_question_arguments, filter_of, read_log
from fieldstation.commands.rows import add_format_argument, write_rows

if TYPE_CHECKING:
    from fieldstation.records import Detection
    from fieldstation.store.query import Filter
    from fieldstation.store.station_db import StationStore

EXAMPLES = """  fieldstation detections --since today
  fieldstation detections --species tit --min-probability 0.9 --limit 20
  fieldstation detections --since 2026-05-01 --until 2026-06-01 --format csv -o may.csv
  fieldstation detections --station hedge --database postgresql:///birds --format jsonl
"""

COLUMNS = (
    "started_at",
    "local",
    "station",
    "common_name",
    "scientific_name",
    "probability",
    "state",
    "clip",
)
MORE_COLUMNS = (
    "ended_at",
    "timezone",
    "threshold",
    "n_windows",
    "encoder_id",
    "latitude",
    "longitude",
    "place",
    "source",
    "sequence",
    "station_key",
    "event_id",
)
"""For programs; a table would not fit a terminal"""
CLIPS_AT_ONCE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add_question_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the rows."""
    context = with_database(load_context(args), args.database)
    wanted = filter_of(args, context)
    columns = COLUMNS if args.format == "table" else (*COLUMNS, *MORE_COLUMNS)
    n = write_rows(_rows(context, wanted), columns, args.format, args.output)
    if n == 0 and args.format == "table":
        print("nothing heard that fits")
    return 0


def _rows(context: Context, wanted: Filter) -> Iterator[dict[str, object]]:
    """Yield what waits, then what is logged, each newest first."""
    from fieldstation.store import query

    with ExitStack() as closing:
        station = _station_store(context, closing)
        waiting = list(_waiting(station, wanted))[::-1] if station else []
        log = closing.enter_context(read_log(context, may_be_missing=station is not None))
        # Told but not yet confirmed: it stands in the log and in the outbox; it is logged.
        known = query.known_events(log, [d.event_id for d in waiting]) if log else set()
        waiting = [d for d in waiting if d.event_id not in known]
        shown = {d.event_id for d in waiting}  # one of them may be logged just now
        found = query.detections(log, wanted) if log else iter(())
        logged = (d for d in found if d.event_id not in shown)
        rows = chain(_shown(station, waiting, "waiting"), _shown(station, logged, "logged"))
        yield from islice(rows, wanted.limit)


def _shown(
    station: StationStore | None, detections: Iterable[Detection], state: str
) -> Iterator[dict[str, object]]:
    """Yield rows, as they are read."""
    for chunk in _chunks(iter(detections)):
        yield from _with_clips(station, chunk, state)


def _chunks(detections: Iterator[Detection]) -> Iterator[list[Detection]]:
    while chunk := list(islice(detections, CLIPS_AT_ONCE)):
        yield chunk


def _with_clips(
    station: StationStore | None, detections: list[Detection], state: str
) -> Iterator[dict[str, object]]:
    """Yield rows, with what became of the clips that this station knows of."""
    clips = station.clips(d.event_id for d in detections) if station and detections else {}
    for detection in detections:
        clip = clips.get(detection.event_id)
        text = (clip.file or f"({clip.state})") if clip else detection.clip or ""
        yield _row(detection, state, text)


def _row(d: Detection, state: str, clip: str) -> dict[str, object]:
    from fieldstation.clock import format_instant, local

    return {
        **{name: getattr(d, name, None) for name in (*COLUMNS, *MORE_COLUMNS)},
        "started_at": format_instant(d.started_at),
        "ended_at": format_instant(d.ended_at),
        "local": f"{local(d.started_at, d.timezone):%Y-%m-%d %H:%M:%S}",
        "state": state,
        "clip": clip,
    }


def _station_store(context: Context, closing: ExitStack) -> StationStore | None:
    """Return this station's own database, or None where none has run here."""
    from fieldstation.store.station_db import StationStore

    if not context.state.station_db.exists():
        return None
    store = StationStore(context.state.station_db, readonly=True)
    closing.callback(store.close)
    return store


def _waiting(station: StationStore, wanted: Filter) -> Iterator[Detection]:
    """Yield the events whose receipt has not come, in order."""
    from fieldstation.mqtt.messages import Unfit, read_detection

    for row in station.waiting():
        try:
            detection = read_detection(row.message.topic, row.message.payload)
        except Unfit:
            continue  # an older version's message: the logger will say what it thinks of it
        if _fits(detection, wanted):
            yield detection


def _fits(d: Detection, wanted: Filter) -> bool:
    """Return whether a waiting detection meets the conditions that the log checks in SQL."""
    from fieldstation.store.query import matches

    return (
        (not wanted.species or matches(wanted.species, d.scientific_name, d.common_name))
        and (wanted.since is None or d.started_at >= wanted.since)
        and (wanted.until is None or d.started_at < wanted.until)
        and (wanted.min_probability is None or d.probability >= wanted.min_probability)
        and (wanted.station is None or d.station == wanted.station)
    )
