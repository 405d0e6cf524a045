"""Test microphone, bundle, broker, database, clock and disk: each line OK, or what to mend.

Beside a running station its own health is read as well, and its microphone is left to it.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fieldstation.clock import FIRST_SENSIBLE, US_PER_S, SystemClock
from fieldstation.commands.broker_access import wait_for_broker
from fieldstation.commands.check_pictures import check_pictures
from fieldstation.commands.context import Context, add_context_arguments, load_context
from fieldstation.config import secret_path
from fieldstation.errors import MendableError
from fieldstation.records import Check
from fieldstation.words import counted

if TYPE_CHECKING:
    from fieldstation.audio.level import Level
    from fieldstation.mqtt.connection import Access, Delivery, Ticket

EXAMPLES = """  fieldstation check
  fieldstation check --state /var/lib/fieldstation && echo all is well
"""

LISTEN_S = 1.0
QUIET_DBFS = -80.0
"""Below it a microphone is muted, unplugged or turned down: rooms and gardens are louder"""
LOUD_DBFS = -0.1
DISK_FREE_MB = 500
HEALTH_AGE_S = 150.0
CONNECT_S = 3.0
BYTES_PER_MB = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--bundle", metavar="NAME|FOLDER", help="model, over the settings'")
    add_context_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the checks; 0 if all are OK, 1 if one is not."""
    context = load_context(args)
    pid = context.state.holder() if context.state.folder.exists() else None
    checks: list[tuple[str, Callable[[], str]]] = [
        ("bundle", lambda: check_bundle(context, args.bundle)),
        ("clock", check_clock),
        ("disk", lambda: check_disk(context)),
        ("station.db", lambda: check_station_db(context)),
        ("put aside", lambda: check_put_aside(context)),
        ("log", lambda: check_log(context)),
        ("pictures", lambda: check_pictures(context, args.bundle, pid is not None)),
        ("broker", lambda: check_broker(context, pid)),
        ("files", lambda: check_secrets(context)),
    ]
    if pid is None:
        checks.append(("microphone", lambda: check_microphone(context)))
    done = [_done(name, check) for name, check in checks]
    if pid is not None:
        done += check_health(context, pid)
    width = max(len(check.name) for check in done) + 2
    for check in done:
        print(f"{check.name:<{width}}{'OK' if check.ok else 'MEND'}  {check.detail}")
    return 0 if all(check.ok for check in done) else 1


def _done(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except (MendableError, OSError) as error:
        return Check(name, False, str(error))


class Mend(MendableError):
    """A check that failed."""


def check_bundle(context: Context, named: str | None) -> str:
    """Run the golden input, match the settings' thresholds; return which provider ran it."""
    from fieldstation.analysis.classifier import Classifier, check_golden
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.station import thresholds

    path = find_bundle(named or context.bundle_name(), context.state.folder)
    bundle = load_bundle(path)
    thresholds(bundle, context.settings)
    model = context.settings.model
    classifier = Classifier(bundle, model.provider, model.threads)
    difference = check_golden(classifier, bundle)
    return (
        f"{bundle.name} ({bundle.encoder_id}), {len(bundle.species)} species; golden input within "
        f"{difference:.1e} on {classifier.provider}"
    )


def check_clock() -> str:
    """See that the clock was set, and ask the kernel whether it is kept right."""
    if SystemClock().wall() < FIRST_SENSIBLE:
        raise Mend(f"it is {time.strftime('%Y-%m-%d')} here: set the clock, or enable NTP")
    return f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}"


def check_disk(context: Context) -> str:
    """See that there is room where the state is."""
    folder = context.state.folder
    while not folder.exists():
        folder = folder.parent
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise Mend(f"{folder} is read-only: look into the system's log, then remount it")
    free_mb = shutil.disk_usage(folder).free / BYTES_PER_MB
    if free_mb < DISK_FREE_MB:
        raise Mend(f"{free_mb:.0f} MB free at {folder}: make room, or lower clips.max_size_mb")
    return f"{free_mb:.0f} MB free at {folder}"


def check_station_db(context: Context) -> str:
    """Open the station's own database, count what waits, and see that there is room for more."""
    from fieldstation.store.station_db import StationStore
    from fieldstation.store.writer import BYTES_PER_MB, shortage

    if not context.state.station_db.exists():
        return "none yet: made at the first start"
    store = StationStore(context.state.station_db, readonly=True)
    try:
        n_waiting, n_bytes = store.n_pending(), store.n_bytes()
        max_bytes = context.settings.mqtt.outbox_max_mb * BYTES_PER_MB
        if problem := shortage(n_bytes, max_bytes):
            raise Mend(f"{n_waiting} messages wait for their receipt; {problem}")
        return f"{n_waiting} messages wait for their receipt, {n_bytes / BYTES_PER_MB:.1f} MB"
    finally:
        store.close()


def check_put_aside(context: Context) -> str:
    """See that no damaged or replaced database lies beside its successor, for somebody to see."""
    from fieldstation.store.database import file_of
    from fieldstation.store.repair import put_aside

    paths = [context.state.station_db]
    if context.settings.log.enabled and (log := file_of(context.log_url())):
        paths.append(log)
    if found := [str(file) for path in paths for file in put_aside(path)]:
        raise Mend(f"{', '.join(found)}: a database was damaged; see to the disk, then remove it")
    return "nothing"


def check_log(context: Context) -> str:
    """Open the log for reading."""
    from fieldstation.store.database import file_of
    from fieldstation.store.log_db import LogStore

    if not context.settings.log.enabled:
        return "off (log.enabled = false)"
    path = file_of(context.log_url())
    if path is not None and not path.exists():
        return f"none yet: {path} is made at the first start"
    log = LogStore(context.log_url(), readonly=True)
    try:
        n = len(log.quarantined(1_000))
        return f"{log.database.name}" + (f"; {n} messages in quarantine" if n else "")
    finally:
        log.close()


def check_broker(context: Context, pid: int | None) -> str:
    """See that the broker lets us in, or, of the embedded one, that it answers."""
    from fieldstation.access import access_to
    from fieldstation.mqtt.broker import find_program, read_access

    mqtt = context.settings.mqtt
    if mqtt.url != "embedded":
        return _knock(access_to(mqtt))
    if pid is None:
        return f"embedded: {find_program('mosquitto')}, started with the station"
    url = read_access(context.state.broker).url
    try:
        socket.create_connection((url.host, url.port), CONNECT_S).close()
    except OSError as error:
        raise Mend(f"{url} does not answer ({error}): start it, or mend mqtt.url") from error
    return f"{url} answers"


def _knock(access: Access) -> str:
    """Log in as the station does, but under another client's id, which disturbs nobody."""
    from fieldstation.mqtt.connection import Connection, Session

    logging.getLogger("fieldstation").setLevel(logging.ERROR)  # its fault becomes our line
    visitor = Visitor()
    connection = Connection(access)
    with connection.open(Session(f"check-{uuid.uuid4().hex[:12]}"), visitor):
        wait_for_broker(connection, visitor.up, CONNECT_S)
    how = "over TLS" if access.url.tls else "without TLS"
    return f"{access.url} lets us in, {how}"


class Visitor:
    """Notes that the broker let us in."""

    def __init__(self) -> None:
        self.up = threading.Event()

    def on_up(self) -> None:
        """Note it."""
        self.up.set()

    def on_message(self, delivery: Delivery) -> None:
        """Do nothing: a visitor subscribes to nothing."""

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """Do nothing: a visitor publishes nothing."""


def check_secrets(context: Context) -> str:
    """See that files with passwords and keys are not for everybody to read."""
    settings = context.settings
    files = (settings.mqtt.password_file, settings.mqtt.key_file, settings.log.password_file)
    named = [Path(secret_path(name)) for name in files if name]
    for path in named:
        if path.exists() and path.stat().st_mode & stat.S_IROTH:
            raise Mend(f"{path} can be read by everybody: chmod o-rwx {path}")
    return f"{len(named)} with passwords or keys, none for everybody to read"


def check_microphone(context: Context) -> str:
    """Listen for a second."""
    device, level = _listen(context)
    if level.peak_dbfs >= LOUD_DBFS:
        raise Mend(f"{device} clips (peak {level.peak_dbfs:.1f} dBFS): turn it down")
    if level.rms_dbfs < QUIET_DBFS:
        raise Mend(f"{device} is silent ({level.rms_dbfs:.0f} dBFS): muted, or turned down?")
    return f"{device}, {level.rms_dbfs:.0f} dBFS"


def _listen(context: Context) -> tuple[str, Level]:
    from fieldstation.audio.level import Meter
    from fieldstation.audio.microphone import Microphone

    audio = context.settings.audio
    spec = int(audio.device) if audio.device.isdecimal() else audio.device or None
    channel = audio.channel - 1 if audio.channel else None
    gives_up_at = time.monotonic() + 5 * LISTEN_S

    def on_wait(_: str) -> None:
        if time.monotonic() > gives_up_at:
            microphone.close()

    microphone = Microphone(spec, channel, on_wait=on_wait, wait=False)
    meter, heard_s = Meter(), 0.0
    for chunk in microphone:
        meter.add(chunk.samples)
        heard_s += chunk.samples.size / chunk.sample_rate
        if heard_s >= LISTEN_S:
            microphone.close()
    if heard_s == 0:
        silent = f"{microphone.description} gives no sound: unplug it and plug it in"
        raise Mend(microphone.problem or silent)
    return microphone.description, meter.take()


def check_health(context: Context, pid: int) -> Iterator[Check]:
    """Yield what the running station last said of itself."""
    health = context.state.read_health(pid)
    at = health.get("at")
    age_s = (SystemClock().wall() - at) / US_PER_S if isinstance(at, int) else None
    if age_s is None or age_s > HEALTH_AGE_S:
        said = "nothing yet" if age_s is None else f"last {age_s:.0f} s ago"
        yield Check("station", age_s is None, f"process {pid} runs; it told its health {said}")
        return
    yield Check(
        "station",
        True,
        f"process {pid}, {counted(health.get('n_events'), 'event')}, "
        f"{health.get('heard_s')} s heard, {health.get('lost_s')} s lost, "
        f"on {health.get('provider')}",
    )
    yield Check("microphone", True, f"{health.get('source')}")
    for problem in health.get("problems", []):
        yield Check("problem", False, str(problem))
