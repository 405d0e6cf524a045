"""Listen, name, log and publish, until stopped or until the recordings end."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from fieldstation.cli import EXIT_FAILED, EXIT_INTERRUPTED
from fieldstation.commands.context import (
    Context,
    add_context_arguments,
    load_context,
    with_database,
)
from fieldstation.config import LogSettings, MqttSettings, with_option
from fieldstation.errors import MendableError
from fieldstation.memory import give_back_freed_memory
from fieldstation.state import State
from fieldstation.words import counted

if TYPE_CHECKING:
    from fieldstation.audio.level import Level
    from fieldstation.audio.source import AudioSource, OnWait
    from fieldstation.bundle import Bundle
    from fieldstation.config import Settings
    from fieldstation.records import Prediction
    from fieldstation.service import Display
    from fieldstation.store.jobs import QueueState
    from fieldstation.worker_process import Command

EXAMPLES = """  fieldstation run                                 default microphone
  fieldstation run --demo                          a real recording, as station `demo`
  fieldstation run --device usb:0d8c:0014:A1B2     a certain microphone (`fieldstation devices`)
  fieldstation run --source evening.flac --trace   a file, saying why windows gave nothing
  arecord -f S16_LE -r 48000 - | fieldstation run --source - --rate 48000
"""

SLOWEST, FASTEST = 0.01, 1_000.0
"""Slower, a chunk of a file lasts longer than a signal should wait"""
METER_WIDTH = 30
METER_FLOOR_DB = -60.0

log = logging.getLogger(__name__)


class RunError(MendableError):
    """Options that do not go together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    source = parser.add_argument_group("source")
    source.add_argument(
        "--demo", action="store_true", help="play the shipped recording as station `demo`"
    )
    source.add_argument(
        "--device", metavar="NAME|INDEX|ID", help="microphone; default: the system's"
    )
    source.add_argument(
        "--source", metavar="FILE|FOLDER|-", help="recordings, or 16-bit PCM from standard input"
    )
    source.add_argument(
        "--speed",
        default="max",
        metavar="max|X",
        help="of a file: as fast as possible, or X times real time (default: max)",
    )
    source.add_argument("--rate", type=int, metavar="HZ", help="of standard input (default: 48000)")
    source.add_argument("--channels", type=int, metavar="N", help="of standard input (default: 1)")
    source.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="hear only this channel, from 1; default: all mixed",
    )
    source.add_argument(
        "--wait", action="store_true", help="wait for a microphone that is not there yet"
    )
    station = parser.add_argument_group("station")
    station.add_argument("--name", help="station's name, over the settings'")
    station.add_argument("--bundle", metavar="NAME|FOLDER", help="model, over the settings'")
    station.add_argument("--database", metavar="URL", help="log, over the settings'")
    station.add_argument(
        "--broker", metavar="URL", help="embedded, mqtt://host or mqtts://host, over the settings'"
    )
    station.add_argument(
        "--wait-images",
        action="store_true",
        help="end only when the pictures of the recordings are painted too; --demo always does",
    )
    station.add_argument(
        "--trace", action="store_true", help="say of every window what it gave, and why not"
    )
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the service; 0 when it ended as it should."""
    _check_source(args)
    # The watchdog's SIGABRT leaves every thread's stack in the journal: on a copy of standard
    # error, as the original is silenced while PortAudio starts, which is where a driver may hang.
    faulthandler.enable(os.dup(2))
    give_back_freed_memory()
    context = _context(args)
    screen = Screen()
    screen.take_logging()

    from fieldstation.audio.devices import DeviceNotFound
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.service import Plan, Service

    bundle = load_bundle(find_bundle(args.bundle or context.bundle_name(), context.state.folder))
    if args.demo:
        context = _demo(context, args)
    live = not (args.source or args.demo)
    try:
        plan = Plan(
            settings=context.settings,
            state=context.state,
            # A key is kept, as all else is written, only once there is something to hear.
            who=context.identity(key=context.state.draw_key()),
            bundle=bundle,
            open_source=_opener(args, context.settings),
            live=live,
            on_trace=_tracer(bundle, context.settings) if args.trace else None,
            worker=_worker(args, context, bundle, live),
            wait_for_pictures=_waits_for_pictures(args, context, bundle),
        )
        service = Service(plan)
    except DeviceNotFound as error:
        raise RunError(f"{error}. Without one: fieldstation run --demo") from error
    screen.introduce(service.display(), bundle)
    done = service.run(lambda: screen.show(service.level()))
    screen.clear()
    if live:
        return 0
    return _conclude(done, context) or _tell_pictures(
        service.painting(), context, plan.wait_for_pictures
    )


class Screen:
    """Standard output: log lines, and at a terminal a level meter that gives way to them."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._has_meter = False

    def take_logging(self) -> None:
        """Send log lines to standard output; the journal adds its own times."""
        handler = logging.StreamHandler(sys.stdout)
        stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
        handler.setFormatter(logging.Formatter(f"{stamp}%(message)s", "%H:%M:%S"))
        handler.addFilter(self._before_line)
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
        for noisy in ("apscheduler", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)

    def introduce(self, display: Display, bundle: Bundle) -> None:
        """Say what runs."""
        for name, text in (
            ("source", display.source),
            ("model", f"{bundle.name}, {len(bundle.species)} species, on {display.provider}"),
            ("broker", display.broker),
            ("log", display.log),
            ("clips", display.clips),
            ("pictures", display.pictures),
        ):
            print(f"{name:<10}{text}", flush=True)

    def show(self, level: Level) -> None:
        """Redraw the meter, at a terminal."""
        if not self._is_terminal:
            return
        share = (level.rms_dbfs - METER_FLOOR_DB) / -METER_FLOOR_DB
        bar = "#" * max(0, min(METER_WIDTH, round(share * METER_WIDTH)))
        text = f"[{bar:<{METER_WIDTH}}] {level.rms_dbfs:6.1f} dBFS, peak {level.peak_dbfs:6.1f}"
        print(f"\r{text}\x1b[K", end="", flush=True)
        self._has_meter = True

    def clear(self) -> None:
        """Take the meter away."""
        if self._has_meter:
            print("\r\x1b[K", end="", flush=True)
            self._has_meter = False

    def _before_line(self, _: logging.LogRecord) -> bool:
        self.clear()
        return True


def _check_source(args: argparse.Namespace) -> None:
    chosen = [name for name in ("demo", "device", "source") if getattr(args, name)]
    if len(chosen) > 1:
        raise RunError(f"--{chosen[0]} and --{chosen[1]} exclude each other: choose one")
    if args.source == "":
        raise RunError("--source is ''; a file, a folder, or - for standard input")
    for option in ("rate", "channels"):
        value = getattr(args, option)
        if value is not None and args.source != "-":
            raise RunError(f"--{option} describes standard input: it needs --source -")
        if value is not None and value < 1:
            raise RunError(f"--{option} is {value}; at least 1")
    if args.wait and (args.source or args.demo):
        raise RunError("--wait is for a microphone that may come later: leave it out here")
    _speed(args.speed)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not SLOWEST <= speed <= FASTEST:
        raise RunError(
            f"--speed is {text!r}; max, 1 for real time, or a number from {SLOWEST:g} to "
            f"{FASTEST:g}"
        )
    return speed


def _context(args: argparse.Namespace) -> Context:
    """Return the settings with this command's options laid on top."""
    context = with_database(load_context(args), args.database)
    settings = context.settings
    name = "demo" if args.demo and args.name is None else args.name
    for option, setting, value in (
        ("--name", "station.name", name),
        ("--device", "audio.device", args.device),
        ("--channel", "audio.channel", args.channel),
        ("--broker", "mqtt.url", args.broker),
    ):
        if value is not None:
            settings = with_option(settings, option, setting, value)
    return replace(context, settings=settings)


def _demo(context: Context, args: argparse.Namespace) -> Context:
    """Return a context of the demo's own.

    It may run beside the station, and its birds are not the garden's: they go to no hub and into
    no other log unless the command line says so.
    """
    settings = replace(
        context.settings,
        mqtt=MqttSettings(url=args.broker or "embedded"),
        log=LogSettings(database=args.database or ""),
    )
    return replace(context, settings=settings, state=State(context.state.folder / "demo"))


def _opener(args: argparse.Namespace, settings: Settings) -> Callable[[OnWait], AudioSource]:
    """Return what opens the source that the options name.

    A microphone must be there at the start, unless it is to be waited for; whoever opens it again,
    after a night's sleep, waits for it.
    """
    may_wait = args.wait
    channel = settings.audio.channel - 1 if settings.audio.channel else None
    zone = ZoneInfo(settings.station.timezone)

    def on_skip(path: Path, reason: str) -> None:
        log.warning("not heard: %s: %s", path, reason)

    def open_source(on_wait: OnWait) -> AudioSource:
        nonlocal may_wait
        if args.demo or (args.source and args.source != "-"):
            from fieldstation.audio.files import FileSource
            from fieldstation.demo import RECORDING

            path = RECORDING if args.demo else Path(args.source)
            return FileSource(path, _speed(args.speed), channel, on_skip, zone)
        if args.source == "-":
            from fieldstation.audio.files import StandardInput

            return StandardInput(
                args.rate or 48_000, args.channels or 1, channel=channel, on_wait=on_wait
            )
        from fieldstation.audio.microphone import Microphone, Patience

        device = settings.audio.device
        spec = int(device) if device.isdecimal() else device or None
        patience = Patience(dead_s=settings.audio.dead_s or math.inf)
        wait, may_wait = may_wait, True
        return Microphone(spec, channel, on_wait=on_wait, wait=wait, patience=patience)

    return open_source


def _worker(
    args: argparse.Namespace, context: Context, bundle: Bundle, live: bool
) -> Command | None:
    """Return what starts the worker; None under systemd, whose own unit does, and where none is
    waited for.
    """
    from fieldstation.worker_process import Command

    is_service = "NOTIFY_SOCKET" in os.environ
    wanted = live or args.demo or args.wait_images
    if is_service or not wanted or not bundle.generator or not context.settings.generation.worker:
        return None
    places = ["--state", str(context.state.folder)]
    if context.config_path:
        places += ["--config", str(context.config_path)]
    environment = {
        "FIELDSTATION_LOG_DATABASE": context.settings.log.database,
        "FIELDSTATION_MQTT_URL": context.settings.mqtt.url,
        "FIELDSTATION_MODEL_BUNDLE": str(bundle.path.absolute()),
    }
    return Command([sys.executable, "-m", "fieldstation", "worker", *places], environment)


def _waits_for_pictures(args: argparse.Namespace, context: Context, bundle: Bundle) -> bool:
    """Return whether the end of the recordings is not the end.

    Raises:
        RunError: pictures are asked for that will never come.
    """
    from fieldstation.pictures import are_wanted

    reason = ""
    if not context.settings.log.enabled:
        reason = "log.enabled is false, and a hub's queue is not looked into"
    elif not are_wanted(context.settings, bundle):
        reason = "generation.enabled is false" if bundle.generator else f"{bundle.name} paints none"
    if args.wait_images and not (args.source or args.demo):
        raise RunError("--wait-images is for recordings, which end: it needs --source or --demo")
    if args.wait_images and reason:
        raise RunError(f"--wait-images, but no picture would come: {reason}")
    # Nobody else looks into a demo's log, which is its own.
    comes = bundle.generator and not reason and context.settings.generation.worker
    return bool(args.wait_images or (args.demo and comes))


def _tell_pictures(state: QueueState, context: Context, waited_for: bool) -> int:
    """Say which pictures are still to come, and which will not; 1 where those were waited for."""
    if state.n_waiting:
        paint = f"fieldstation worker --once --state {context.state.folder}"
        print(f"{counted(state.n_waiting, 'picture')} still to be painted: {paint}")
    if state.n_parked:
        print(f"{counted(state.n_parked, 'picture')} cannot be painted: {state.reason}")
    return EXIT_FAILED if waited_for and (state.n_waiting or state.n_parked) else 0


def _tracer(bundle: Bundle, settings: Settings) -> Callable[[Prediction], None]:
    from fieldstation.analysis.tracker import explain
    from fieldstation.clock import local
    from fieldstation.station import thresholds

    limits = thresholds(bundle, settings)

    def trace(prediction: Prediction) -> None:
        at = local(prediction.window.started_at, settings.station.timezone)
        log.info("%s", f"{at:%H:%M:%S.%f}"[:-4] + "  " + explain(prediction, bundle.labels, limits))

    return trace


def _conclude(done: bool, context: Context) -> int:
    """Say where the answers are, or what still waits."""
    state = context.state.folder
    if done:
        print(f"done. Ask: fieldstation detections --state {state}")
        return 0
    print(f"stopped before all was heard and confirmed; the same command goes on ({state})")
    return EXIT_INTERRUPTED
