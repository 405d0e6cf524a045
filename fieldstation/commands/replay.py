"""Put recordings into a log, without a broker: as fast as possible, resumable, never twice.

Events take the same way as live ones (the wire's message, read as a logger reads it), so that a
replayed log cannot be told from one that was written live.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from fieldstation.commands.context import (
    Context,
    add_context_arguments,
    load_context,
    with_database,
)
from fieldstation.config import with_option
from fieldstation.words import counted

if TYPE_CHECKING:
    from fieldstation.audio.files import FileSource
    from fieldstation.bundle import Bundle
    from fieldstation.coverage import FileLedger
    from fieldstation.records import (
        AudioChunk,
        Event,
        FileOrigin,
        Interval,
        Message,
        StationIdentity,
    )
    from fieldstation.station import Station
    from fieldstation.store.log_db import LogStore

EXAMPLES = """  fieldstation replay night.flac --database sqlite:///night.db
  fieldstation replay recordings/ --database postgresql:///birds --name hedge
  fieldstation detections --database sqlite:///night.db
"""

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("source", type=Path, metavar="FILE|FOLDER", help="recordings")
    parser.add_argument(
        "--database", required=True, metavar="URL", help="the log: sqlite:///FILE or postgresql://…"
    )
    parser.add_argument("--name", help="station's name in the log, over the settings'")
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="model, over the settings'")
    parser.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="hear only this channel, from 1; default: all mixed",
    )
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; 0 when every recording is in the log, 1 when some could not be heard."""
    from fieldstation.analysis.classifier import Classifier, check_golden
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.clock import SystemClock
    from fieldstation.coverage import FileLedger
    from fieldstation.station import Recorder, Station, make_ear
    from fieldstation.store.log_db import LogStore

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    context = _with_options(with_database(load_context(args), args.database), args)
    context.state.prepare()
    who = context.identity()
    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    model = context.settings.model
    classifier = Classifier(bundle, model.provider, model.threads)
    check_golden(classifier, bundle)
    skipped = Skipped()
    intake = Intake(LogStore(context.log_url()), who, _analysis(context, bundle))
    try:
        source = _open_source(args.source, context, skipped, intake.has)
        ledger = FileLedger("replay", intake.post_interval)
        ear = make_ear(bundle, classifier, context.settings, who, SystemClock())
        station = Station(ear, Recorder(who, intake, None), ledger)
        _replay(source, station, ledger, intake)
    finally:
        intake.close()
    print(
        f"{counted(intake.n_recordings, 'recording')} replayed, "
        f"{intake.n_known} already in the log, {skipped.n} not heard whole; "
        f"{counted(intake.n_events, 'event')}, {intake.n_new} of them new"
    )
    return 1 if skipped.n else 0


class Skipped:
    """Says and counts what could not be heard."""

    n = 0

    def __call__(self, path: Path, reason: str) -> None:
        """Say it."""
        self.n += 1
        print(f"not heard: {path}: {reason}", file=sys.stderr)


class Intake:
    """Collects a recording's events and coverage, and commits them when it has ended."""

    def __init__(self, log: LogStore, who: StationIdentity, analysis: str) -> None:
        self._log = log
        self._who = who
        self._analysis = analysis
        self._messages: list[Message] = []
        self._intervals: list[Interval] = []
        self.n_recordings = self.n_known = self.n_events = self.n_new = 0

    def has(self, content_hash: str) -> bool:
        """Return whether a recording is in the log already, and count it if so."""
        from fieldstation.store.replays import is_replayed

        known = is_replayed(self._log, self._who.name, content_hash, self._analysis)
        self.n_known += known
        return known

    def post_event(self, event: Event, compose: Callable[[int], Message], clip: object) -> None:
        """Take an event over."""
        self.n_events += 1
        self._messages.append(compose(self.n_events))

    def post_interval(self, interval: Interval) -> None:
        """Take a stretch of sound over."""
        self._intervals.append(interval)

    def commit(self, file: FileOrigin, duration_s: float) -> None:
        """Write what was collected, and that this recording is done."""
        from fieldstation.clock import SystemClock
        from fieldstation.mqtt.messages import read_detection
        from fieldstation.store.log_db import Outcome
        from fieldstation.store.replays import Replay, record_replay

        now = SystemClock().wall()
        detections = [read_detection(m.topic, m.payload) for m in self._messages]
        outcomes = self._log.record(detections, now)
        self._log.record_coverage(self._who.name, self._who.key, self._intervals)
        done = Replay(
            self._who.name, file.content_hash, self._analysis, len(detections), duration_s, now
        )
        record_replay(self._log, done)
        self.n_new += outcomes.count(Outcome.NEW)
        self.n_recordings += 1
        self._messages, self._intervals = [], []

    def close(self) -> None:
        """Close the log."""
        self._log.close()


def _replay(source: FileSource, station: Station, ledger: FileLedger, intake: Intake) -> None:
    """Hear every recording; one is committed, with all that it holds, before the next is heard."""
    from tqdm import tqdm

    last: FileOrigin | None = None
    heard_s = 0.0

    def finish(file: FileOrigin) -> None:
        station.finish()
        ledger.close()
        intake.commit(file, heard_s)

    # A bar for people; a journal or a file gets the last line only.
    hidden = not sys.stderr.isatty()
    with tqdm(total=round(source.total_s), unit="s", disable=hidden) as bar:
        for chunk in source:
            if last is not None and chunk.file and chunk.file.content_hash != last.content_hash:
                finish(last)
                heard_s = 0.0
            station.process(chunk)
            last = chunk.file
            heard_s += _seconds(chunk)
            bar.update(_seconds(chunk))
        if last is not None:
            finish(last)


def _seconds(chunk: AudioChunk) -> float:
    return chunk.samples.size / chunk.sample_rate


def _with_options(context: Context, args: argparse.Namespace) -> Context:
    settings = context.settings
    if args.name is not None:
        settings = with_option(settings, "--name", "station.name", args.name)
    if args.channel is not None:
        settings = with_option(settings, "--channel", "audio.channel", args.channel)
    return replace(context, settings=settings)


def _open_source(
    path: Path, context: Context, skipped: Skipped, is_done: Callable[[str], bool]
) -> FileSource:
    from fieldstation.audio.files import FileSource

    channel = context.settings.audio.channel
    return FileSource(
        path,
        None,
        channel - 1 if channel else None,
        skipped,
        ZoneInfo(context.settings.station.timezone),
        is_done=is_done,
    )


def _analysis(context: Context, bundle: Bundle) -> str:
    """Return a digest of what decides a recording's events besides its sound."""
    from fieldstation.station import thresholds

    settings = context.settings
    decisive = [
        bundle.encoder_id,
        bundle.temperature,
        bundle.offsets,
        thresholds(bundle, settings),
        settings.model.hop_s,
        settings.events.max_event_s,
        settings.audio.channel,
        settings.station.timezone,
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
