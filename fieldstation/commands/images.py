"""List the pictures of who was heard, copy them, or have events painted again.

They are generated from the calls, none is a photograph: do not identify by them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from fieldstation.commands.context import Context, load_context, with_database
from fieldstation.commands.questions import add_question_arguments, filter_of, read_log
from fieldstation.commands.rows import add_format_argument, write_rows
from fieldstation.errors import MendableError
from fieldstation.words import counted

if TYPE_CHECKING:
    from fieldstation.gallery import Gallery
    from fieldstation.store.log_db import LogStore
    from fieldstation.store.picture_query import PictureRow
    from fieldstation.store.query import Filter

EXAMPLES = """  fieldstation images --since today
  fieldstation images --species robin --out robins/     copies, named by date and bird
  fieldstation images --only parked                    what cannot be painted, and why
  fieldstation images --again --only parked            try once more
  fieldstation images --again --since 7d                with the present bundle's generator
"""

COLUMNS = ("local", "station", "common_name", "scientific_name", "probability", "state", "picture")
MORE_COLUMNS = (
    "event_id",
    "started_at",
    "generator_id",
    "seed",
    "painted_from",
    "width",
    "height",
    "n_bytes",
    "sha256",
    "made_at",
    "paint_ms",
    "provider",
)
"""For programs; a table would not fit a terminal"""
STATE_WORDS = ("painted", "removed", "queued", "claimed", "parked", "dropped")


class ImagesError(MendableError):
    """A wish that cannot be meant, or files that cannot be written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "event_ids", nargs="*", metavar="EVENT_ID", help="with --again: only these events"
    )
    parser.add_argument(
        "--only", choices=STATE_WORDS, help="only these; removed: painted, and past its time"
    )
    parser.add_argument("--out", metavar="FOLDER", help="copy the pictures there")
    parser.add_argument(
        "--again", action="store_true", help="queue the events for the present generator"
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="where pictures are; default: images in the state folder"
    )
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="of --again, over the settings'")
    add_question_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many")
    add_format_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the rows, or say what was done."""
    _check(args)
    context = with_database(load_context(args), args.database)
    wanted = filter_of(args, context)
    states = (args.only,) if args.only else STATE_WORDS
    if args.again:
        return _ask_again(args, context, wanted, states)
    with read_log(context) as log:
        from fieldstation.store.picture_query import pictures

        assert log is not None
        found = pictures(log, wanted, states)
        if args.out:
            return _copy_all(found, _gallery(args, context), Path(args.out))
        columns = COLUMNS if args.format == "table" else (*COLUMNS, *MORE_COLUMNS)
        n = write_rows(map(_row, found), columns, args.format, args.output)
    if n == 0 and args.format == "table":
        print("no picture that fits")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.again and args.out:
        raise ImagesError("--again and --out exclude each other: the pictures come later")
    if args.event_ids and not args.again:
        raise ImagesError("EVENT_ID goes with --again: which events are to be painted again")
    args.event_ids = [_event_id(text) for text in args.event_ids]


def _event_id(text: str) -> str:
    """Return an id as the log spells it."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise ImagesError(
            f"{text!r} is no event's id: `fieldstation images --format jsonl` shows them"
        ) from error


def _gallery(args: argparse.Namespace, context: Context) -> Gallery:
    from fieldstation.gallery import Gallery

    return Gallery(Path(args.images) if args.images else context.state.images)


def _row(row: PictureRow) -> dict[str, object]:
    """Return a picture's columns."""
    from fieldstation.clock import format_instant, local

    d, image = row.detection, row.image
    told = {name: getattr(image, name, None) for name in MORE_COLUMNS} if image else {}
    if image:
        told["made_at"] = format_instant(image.made_at)
        told["painted_from"] = "call" if image.is_of_call else "species"
    return {
        **told,
        "event_id": d.event_id,
        "started_at": format_instant(d.started_at),
        "local": f"{local(d.started_at, d.timezone):%Y-%m-%d %H:%M:%S}",
        "station": d.station,
        "common_name": d.common_name,
        "scientific_name": d.scientific_name,
        "probability": d.probability,
        "state": row.state,
        "picture": (image.file if image else None) or row.reason,
    }


def _copy_all(found: Iterator[PictureRow], gallery: Gallery, folder: Path) -> int:
    """Copy pictures; 1 where some are not to be had."""
    n_copied = n_gone = 0
    for row in found:
        if row.image is None or row.image.file is None:
            continue
        png = gallery.read(row.image)
        if png is None:
            n_gone += 1
            continue
        _write(folder / copy_name(row), png)
        n_copied += 1
    print(f"{counted(n_copied, 'picture')} in {folder}")
    if n_gone:
        print(f"{n_gone} are not in {gallery.folder}: name their folder with --images")
    return 1 if n_gone else 0


def copy_name(row: PictureRow) -> str:
    """Return a file's name for people: date, time and bird, and what makes it unique."""
    from fieldstation.clock import local

    d, image = row.detection, row.image
    assert image is not None
    at = f"{local(d.started_at, d.timezone):%Y-%m-%d_%H%M%S}"
    bird = re.sub(r"[^\w]+", "-", d.common_name).strip("-")[:60] or "bird"
    return f"{at}_{bird}_{image.event_id[-12:]}_{image.generator_id[:8]}_{image.seed}.png"


def _write(path: Path, png: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    except OSError as error:
        raise ImagesError(f"--out: {path}: {error.strerror}: name a folder with room") from error


def _ask_again(
    args: argparse.Namespace, context: Context, wanted: Filter, states: Sequence[str]
) -> int:
    """Queue events, and say how many."""
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.clock import SystemClock
    from fieldstation.store.database import file_of
    from fieldstation.store.log_db import LogStore
    from fieldstation.store.picture_query import ask_again

    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    if bundle.generator is None:
        raise ImagesError(
            f"bundle {bundle.name} does not paint: choose one that does "
            "(`fieldstation bundle list`)"
        )
    path = file_of(context.log_url())
    if path is not None and not path.exists():
        raise ImagesError(f"{path} does not exist yet: start the station, or name a --database")
    log = LogStore(context.log_url())
    try:
        _refuse_unknown(log, args.event_ids)
        n, n_left = ask_again(
            log,
            wanted,
            states,
            bundle.generator.generator_id,
            context.settings.generation.queue,
            SystemClock().wall(),
            args.event_ids,
        )
    finally:
        log.close()
    queued = counted(n, "event")
    print(f"{queued} queued for generator {bundle.generator.generator_id} of {bundle.name}")
    if not n and not n_left:
        print("what it has painted, and what waits already, is left out")
    if n_left:
        print(f"{n_left} more fit; the queue holds {context.settings.generation.queue}: ask later")
    return 0


def _refuse_unknown(log: LogStore, event_ids: Sequence[str]) -> None:
    from fieldstation.store.query import known_events

    known = known_events(log, event_ids)
    if unknown := [text for text in event_ids if text not in known]:
        raise ImagesError(
            f"event {unknown[0]} is not in the log: `fieldstation detections --format jsonl` "
            "lists the ids, --database names another log"
        )
