"""A station at work: which stages there are, how they are wired, in which order they stop.

    source -> Listening -> StoreThread -> Publisher -> broker -> Logger -> log
                  \\-> ClipWriter              chores, by the schedule

What is upstream stops first, and each stage finishes what it was given before the next is told:
an open event is closed, written, told, and confirmed if the broker is there.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from fieldstation import __version__, pictures, schedule
from fieldstation.access import access_to
from fieldstation.analysis.classifier import Classifier, check_golden
from fieldstation.audio.hours import RecordingHours, is_awake
from fieldstation.audio.level import Level
from fieldstation.audio.source import AudioSource, OnWait
from fieldstation.bundle import Bundle
from fieldstation.clips.retention import take_over
from fieldstation.clips.ring import Ring
from fieldstation.clips.speech import GateMissing, SpeechGate
from fieldstation.clips.writer import ClipTags, ClipWriter
from fieldstation.clock import (
    FIRST_SENSIBLE,
    US_PER_S,
    Clock,
    Steps,
    SystemClock,
    instant_of,
    local,
)
from fieldstation.config import ConfigError, Settings, split_address
from fieldstation.coverage import (
    Changes,
    FileLedger,
    Ledger,
    Pulse,
    read_pulse,
    sums_between,
)
from fieldstation.errors import redacted
from fieldstation.listening import Listening
from fieldstation.mqtt import messages
from fieldstation.mqtt.broker import EmbeddedBroker
from fieldstation.mqtt.connection import Connection
from fieldstation.mqtt.logger import Logger
from fieldstation.mqtt.messages import Topics
from fieldstation.mqtt.publisher import Publisher, Trust
from fieldstation.notify import Notifier
from fieldstation.painting import Painting
from fieldstation.records import (
    Health,
    OutboxRow,
    Prediction,
    StationIdentity,
)
from fieldstation.schedule import Chore, Chores
from fieldstation.state import Lock, State, StateError
from fieldstation.station import Recorder, Station, make_ear, thresholds
from fieldstation.store.coverage_query import with_newest
from fieldstation.store.errors import AWAY, StoreError
from fieldstation.store.jobs import QueueState
from fieldstation.store.keeper import Keeper, open_station_db, was_killed
from fieldstation.store.late_log import LateLog
from fieldstation.store.station_db import NAME, StationStore
from fieldstation.store.writer import BYTES_PER_MB, StoreThread
from fieldstation.supervisor import Supervisor
from fieldstation.upkeep import Upkeep
from fieldstation.words import counted
from fieldstation.worker_process import Command

if TYPE_CHECKING:
    from fieldstation.metrics import MetricsPage

log = logging.getLogger(__name__)

HEALTH_EVERY_S = 60.0
HEALTH_SOON_S = 2.0
"""Between two tellings, where a problem came or went in the meantime"""
HEALTH, PULSE = "health", "pulse"
"""Names of the vitals"""
KEEP_EVERY_S = 60.0
"""An interval that grows is kept in station.db so often, and in the pulse between"""
COVERAGE_EVERY_S = 600.0
HOURS_EVERY_S = 30.0
UNTOLD_EVERY_S = 600.0
GOODBYE_S = 3.0
"""How long a stopping live station waits for the last receipts; the rest goes at the next start"""
DRAIN_CLIPS_S = 600.0
STORE_DRAIN_S = 20.0
STORE_FINISH_S = 3.0
"""After the drain; shorter than the wait for its thread, so that it can say what is unwritten"""
MAINTENANCE_DEADLINE_S = 3_600.0
"""A backup of a large log on a slow card is one turn of its loop"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a service is to do, checked before it starts."""

    settings: Settings
    state: State
    who: StationIdentity
    bundle: Bundle
    open_source: Callable[[OnWait], AudioSource]
    live: bool
    """Whether the source is endless; a file's end is the service's end"""
    on_trace: Callable[[Prediction], None] | None = None
    worker: Command | None = None
    """Starts what paints, where the station shall; under systemd a unit of its own does"""
    wait_for_pictures: bool = False
    """Of recordings: whether they are done only when they are painted"""


@dataclass(frozen=True, slots=True)
class Display:
    """What a terminal shows of a running service."""

    source: str
    provider: str
    broker: str
    log: str
    clips: str
    pictures: str


class Outbox:
    """The publisher's view: reads go to the database, receipts to the one thread that writes."""

    def __init__(self, store: StationStore, writer: StoreThread) -> None:
        self._store = store
        self._writer = writer

    def pending(self, after: int, limit: int) -> list[OutboxRow]:
        """Return unconfirmed rows in order."""
        return self._store.pending(after, limit)

    def n_pending(self) -> int:
        """Return how many rows are unconfirmed."""
        return self._store.n_pending()

    def confirm(self, ids: Sequence[str], /) -> None:
        """Take rows out soon."""
        self._writer.post_confirm(ids)


class Service:
    """One run of one station. Made, started, watched and stopped by the main thread."""

    def __init__(self, plan: Plan, clock: Clock | None = None) -> None:
        self._plan = plan
        self._clock = clock or SystemClock()
        self._started = self._clock.monotonic()
        self._notifier = Notifier()
        self._supervisor = Supervisor(self._clock, self._notifier)
        self._run_id = uuid4().hex
        self._awake = threading.Event()
        self._awake.set()
        self._told: Mapping[str, object] = {}
        self._looked_at = self._started
        self._steps = Steps(self._clock)
        self._stored: dict[str, object] = {"n_waiting": 0}
        self._closing = ExitStack()
        self._open()

    def _open(self) -> None:
        """Open everything that can be wrong; nothing runs yet.

        Raises:
            MendableError: the settings, the bundle, the state folder, a database or the broker.
        """
        plan, settings = self._plan, self._plan.settings
        _check_trust(settings)
        self._classifier = Classifier(plan.bundle, settings.model.provider, settings.model.threads)
        check_golden(self._classifier, plan.bundle)
        thresholds(plan.bundle, settings)
        if settings.mqtt.url != "embedded":
            self._access = access_to(settings.mqtt)
        # Before anything is written: without a source there is nothing to do.
        self._source = self._make_source()
        plan.state.prepare()
        has_run = plan.state.has_run
        lock = plan.state.lock()
        self._closing.callback(lock.release)
        try:
            self._keep_key()
            self._open_stores(has_run)
            self._open_vitals(lock)
            self._open_broker()
            self._wire()
        except BaseException:
            self._closing.close()
            raise

    def _keep_key(self) -> None:
        state, key = self._plan.state, self._plan.who.key
        if state.keep_key(key) != key:
            raise StateError(f"another station just began on {state.folder}: start this one again")

    def _open_stores(self, has_run: bool) -> None:
        plan = self._plan
        path, copies = plan.state.station_db, plan.state.backups
        self._was_killed = was_killed(path)
        self._store = open_station_db(path, copies, self._clock, has_run=has_run)
        self._closing.callback(self._store.close)
        self._keeper = Keeper(self._store.database, path, copies, self._clock)
        self._closing.callback(self._keeper.close)
        if self._store.meta(NAME) != plan.who.name:
            self._store.set_meta(NAME, plan.who.name)
        self._store.settle_clips(take_over(plan.state.clips))
        self._log: LateLog | None = None
        if plan.settings.log.enabled:
            url = plan.state.log_url(plan.settings.log.database)
            maker = pictures.job_maker(plan.settings, plan.bundle)
            self._log = LateLog(url, maker, copies, self._tell_again)
            self._closing.callback(self._log.close)

    def _open_vitals(self, lock: Lock) -> None:
        """Take over what the last run left there, and tell where they are now."""
        state = self._plan.state
        left = state.told_vitals()
        if left and (interval := read_pulse(left.read(PULSE))):
            self._store.record_intervals([interval])
        self._vitals = state.vitals()
        self._pulse = Pulse(partial(self._vitals.write, PULSE))
        lock.tell(self._vitals)

    def _open_broker(self) -> None:
        settings = self._plan.settings.mqtt
        self._broker: EmbeddedBroker | None = None
        if settings.url != "embedded":
            return
        self._broker = EmbeddedBroker(self._plan.state.broker, settings.port)
        self._broker.start()
        self._closing.callback(self._broker.stop)
        self._access = self._broker.access

    def _wire(self) -> None:
        plan, settings = self._plan, self._plan.settings
        self._writer = StoreThread(
            self._store,
            on_committed=lambda: self._publisher.wake(),
            finish_s=STORE_FINISH_S,
            max_bytes=settings.mqtt.outbox_max_mb * BYTES_PER_MB,
            keeper=self._keeper,
        )
        self._publisher = Publisher(
            Connection(self._access),
            Outbox(self._store, self._writer),
            Topics(plan.who.name),
            plan.who.key,
            Trust.parse(settings.mqtt.trust, own=plan.who.key),
            version=__version__,
            wall=self._clock.wall,
            away=AWAY,
        )
        self._logger: Logger | None = None
        if self._log is not None:
            self._logger = Logger(
                Connection(self._access),
                self._log,
                plan.who.key,
                station=plan.who.name,
                wall=self._clock.wall,
                away=AWAY,
                on_hearing=self._publisher.go_over_again,
            )
        self._clips, self._clips_off = self._make_clips()
        self._ledger = self._make_ledger()
        self._listening = Listening(
            self._make_station(), self._ledger, self._writer.has_room, plan.live
        )
        self._listening.attach(self._source)
        self._painting = Painting(
            settings, plan.bundle, plan.who.name, self._log, plan.worker, self._clock
        )
        self._minute = Chores(self._minute_chores())
        self._metrics = self._make_metrics()
        upkeep = Upkeep(plan.settings, plan.state, plan.who, self._writer, self._log, self._clock)
        self._upkeep = Chores(upkeep.chores())

    def _make_station(self) -> Station:
        plan = self._plan
        self._recorder = Recorder(
            plan.who,
            self._writer,
            None,
            with_clip=self._clips is not None,
            with_embedding=pictures.sends_embeddings(plan.settings, plan.bundle),
        )
        ear = make_ear(plan.bundle, self._classifier, plan.settings, plan.who, self._clock)
        return Station(ear, self._recorder, self._ledger, self._clips, plan.on_trace)

    def _make_clips(self) -> tuple[ClipWriter | None, str]:
        """Return the clip writer, or None and why there are no clips."""
        clips = self._plan.settings.clips
        if not clips.enabled:
            return None, "off"
        try:
            gate = SpeechGate()
        except GateMissing as error:
            log.warning("clips are off: %s", error)
            return None, f"off: {error}"
        roll_s = clips.pre_roll_s + clips.post_roll_s
        # An event is known only when the window after it has passed.
        seconds = self._plan.settings.events.max_event_s + roll_s + 3 * self._plan.bundle.window_s
        who = self._plan.who
        writer = ClipWriter(
            self._plan.state.clips,
            Ring(seconds),
            gate,
            clips.pre_roll_s,
            clips.post_roll_s,
            self._writer.post_clip_state,
            ClipTags(who.name, who.timezone),
            live=self._plan.live,
            on_wait=lambda: self._listening.waited("disk"),
        )
        return writer, str(self._plan.state.clips)

    def _make_metrics(self) -> MetricsPage | None:
        if not (listen := self._plan.settings.metrics.listen):
            return None
        from fieldstation.metrics import MetricsPage, render  # no memory unless it is wanted

        host, port = split_address(listen)
        name = self._plan.who.name
        return MetricsPage(host, port, lambda: render(name, self._told) if self._told else "")

    def _make_ledger(self) -> Ledger | FileLedger:
        last = self._store.last_interval()
        ended_at = last.started_at + round(last.duration_s * US_PER_S) if last else 0
        # A killed run may not have told its last intervals; telling twice does no harm.
        untold_at = ended_at - round(2 * COVERAGE_EVERY_S * US_PER_S)
        untold = self._store.intervals(untold_at, ended_at) if last else []
        self._intervals = Changes(self._writer.post_interval, untold)
        kind = Ledger if self._plan.live else FileLedger
        ledger = kind(
            self._run_id, sink=self._intervals, clock=self._clock, heartbeat_s=KEEP_EVERY_S
        )
        if last:
            ledger.was_stopped(since=ended_at)
        return ledger

    def _make_source(self) -> AudioSource:
        def on_wait(cause: str) -> None:
            self._listening.waited(cause)

        if not self._plan.live or self._plan.settings.schedule.recording == "always":
            return self._plan.open_source(on_wait)
        self._look_at_hours()
        return RecordingHours(self._plan.open_source, self._awake, on_wait)

    def display(self) -> Display:
        """Return what a terminal shows."""
        log_name = self._plan.state.log_url(self._plan.settings.log.database)
        return Display(
            source=self._source.description,
            provider=self._classifier.provider,
            broker=str(self._access.url),
            log=redacted(log_name) if self._log else "off (log.enabled = false)",
            clips=self._clips_off,
            pictures=self._painting.describe(),
        )

    def painting(self) -> QueueState:
        """Return how the queue of pictures was when it was last looked at."""
        return self._painting.state()

    def level(self) -> Level:
        """Return the sound level since the last call."""
        return self._listening.level()

    def run(self, tick: Callable[[], None] = lambda: None) -> bool:
        """Run until the source ends or a signal comes; return whether everything was done.

        Args:
            tick: called by the main thread a few times a second.

        Raises:
            BaseException: what a stage failed with; what was heard is kept nevertheless.
        """
        self._supervisor.take_signals()
        with self._closing:
            self._start()
            try:
                self._supervisor.watch(lambda: self._listener.ended, lambda: self._tick(tick))
            finally:
                self._notifier.stopping()
                done = self._stop(tick)
            if failure := self._supervisor.failure:  # of a stage that broke while it finished
                raise failure
        return done

    def _start(self) -> None:
        start = self._supervisor.start
        self._store_stage = start("store", self._writer)
        self._publisher_stage = start("publisher", self._publisher)
        self._logger_stage = start("logger", self._logger) if self._logger else None
        self._clips_stage = start("clips", self._clips) if self._clips else None
        self._listener = start("analysis", self._listening)
        self._metrics_stage = start("metrics", self._metrics) if self._metrics else None
        self._chore_stages = [
            start("minute", self._minute),
            start("upkeep", self._upkeep, MAINTENANCE_DEADLINE_S),
        ]
        self._scheduler = schedule.start([self._minute, self._upkeep], self._plan.who.timezone)
        self._minute.request("health")
        self._minute.request("untold events")
        if self._was_killed:
            self._upkeep.request("look for damage")
        self._notifier.ready()
        self._painting.start()

    def _tick(self, tick: Callable[[], None]) -> None:
        if self._broker:
            self._broker.check()
        self._painting.check()
        self._look_at_clock()
        self._look_at_problems()
        self._pulse.beat(self._clock.monotonic(), self._ledger.open)
        tick()

    def _look_at_clock(self) -> None:
        if step_s := self._steps.take():
            log.warning("the clock was set by %+.0f s", step_s)
            stages = [self._minute, self._upkeep]
            schedule.follow_clock(self._scheduler, stages, self._plan.who.timezone, step_s)
            self._minute.request("health")

    def _look_at_problems(self) -> None:
        """Have health told as soon as a problem comes or goes."""
        now = self._clock.monotonic()
        if now - self._looked_at >= HEALTH_SOON_S:
            self._looked_at = now
            if self._told and self._told["problems"] != self._problems():
                self._minute.request("health")
                self._minute.request("untold events")  # a file may have been restored

    def _stop(self, tick: Callable[[], None]) -> bool:
        """Stop every stage, upstream first; return whether all that was heard is confirmed."""
        self._scheduler.shutdown(wait=False)
        self._listener.tell_stop()
        self._source.close()
        self._listener.stop()
        if self._clips and self._clips_stage:
            self._clips.finish()
            if not self._plan.live:
                self._wait(lambda: bool(self._clips and self._clips.drain(0)), DRAIN_CLIPS_S, tick)
            self._clips_stage.stop()
        self._post_coverage()
        self._writer.drain(STORE_DRAIN_S)
        patience_s = GOODBYE_S if self._plan.live else float("inf")
        done = self._wait(self._all_told, patience_s, tick)
        if done and self._plan.wait_for_pictures:
            done = self._wait(self._painting.all_done, float("inf"), tick)
        self._painting.stop()
        last = [
            *self._chore_stages,
            self._metrics_stage,
            self._publisher_stage,
            self._logger_stage,
            self._store_stage,
        ]
        for stage in filter(None, last):
            stage.stop()
        return done and self._listening.heard_all

    def _wait(
        self, is_done: Callable[[], bool], patience_s: float, tick: Callable[[], None]
    ) -> bool:
        """Wait, watching the stages; return whether it is done.

        A signal, or a stage that broke and may be the one waited for, shortens the wait.
        """
        ends_at = time.monotonic() + patience_s
        while not is_done():
            if self._supervisor.asked_to_stop or self._supervisor.failure:
                ends_at = min(ends_at, time.monotonic() + GOODBYE_S)
            if time.monotonic() >= ends_at:
                return False
            self._tick(tick)
            self._supervisor.look()
            time.sleep(0.05)
        return True

    def _all_told(self) -> bool:
        try:
            return self._publisher.idle
        except AWAY:  # the store's thread says so, and goes on trying
            return False

    # Chores

    def _minute_chores(self) -> list[Chore]:
        faults = (OSError, StoreError)
        chores = [
            Chore("health", self._tell_health, every_s=HEALTH_EVERY_S, on_fault=faults),
            Chore("coverage", self._post_coverage, every_s=COVERAGE_EVERY_S, on_fault=faults),
            Chore("untold events", self._tell_untold, every_s=UNTOLD_EVERY_S, on_fault=faults),
        ]
        if self._plan.settings.schedule.recording != "always":
            chores.append(Chore("hours", self._look_at_hours, every_s=HOURS_EVERY_S))
        return chores

    def _look_at_hours(self) -> str:
        who, hours = self._plan.who, self._plan.settings.schedule.recording
        was_awake = self._awake.is_set()
        if is_awake(hours, local(self._clock.wall(), who.timezone), who.place):
            self._awake.set()
            return "" if was_awake else f"awake ({hours})"
        self._awake.clear()
        return f"asleep until the hours begin ({hours})" if was_awake else ""

    def _tell_health(self) -> str:
        values = self._told = self.health()
        who = self._plan.who
        self._publisher.send_live(
            messages.health_message(who.name, who.key, Health(self._clock.wall(), values))
        )
        self._vitals.write(HEALTH, {**values, "pid": os.getpid()})
        heard = self._listening.heard()
        self._notifier.status(f"{self._source.description}, {counted(heard.n_events, 'event')}")
        if self._clock.monotonic() - self._started < HEALTH_EVERY_S / 2:
            return ""  # the first is for `check`; nobody wants to read it
        return (
            f"{counted(heard.n_events, 'event')}, {heard.seconds:.0f} s heard, "
            f"{heard.lost_s:.0f} s lost, {values['n_waiting']} waiting"
        )

    def health(self) -> dict[str, object]:
        """Return how the station is, as the health topic and `check` tell it."""
        published = self._publisher.state()
        logged = self._logger.state() if self._logger else None
        heard = self._listening.heard()
        written = self._writer.state()
        return {
            "at": self._clock.wall(),
            "version": __version__,
            "uptime_s": round(self._clock.monotonic() - self._started, 1),
            "source": self._source.description,
            "provider": self._classifier.provider,
            "encoder_id": self._plan.bundle.encoder_id,
            "heard_s": round(heard.seconds, 1),
            "lost_s": round(heard.lost_s, 3),
            **self._read_stored(),
            "n_gaps": heard.n_gaps,
            "n_clipped": heard.n_clipped,
            "n_events": heard.n_events,
            "real_time_factor": round(heard.busy_s / heard.seconds, 5) if heard.seconds else 0.0,
            "n_unwritten": written.n_waiting,
            "outbox_mb": round(written.n_bytes / BYTES_PER_MB, 1),
            "broker": str((self._broker or self._access).url),
            "connected": published.connection.up,
            "n_resent": published.n_resent,
            "n_refused": published.n_refused,
            "n_logged": logged.n_recorded if logged else 0,
            "clips": self._clips_off,
            **self._painting.health(),
            "problems": self._problems(),
        }

    def _problems(self) -> list[str]:
        """Return what is wrong now, in words; asks no disk."""
        published = self._publisher.state()
        logged = self._logger.state() if self._logger else None
        problems = [
            self._writer.state().fault,
            self._writer.state().shortage,
            self._keeper.news,
            self._log and self._log.news,
            published.connection.fault,
            published.twin and f"another station (key {published.twin}) has this name",
            logged and (logged.fault or logged.connection.fault),
            self._clips and self._clips.fault,
            self._clock.wall() < FIRST_SENSIBLE
            and "the clock was never set: set it, or enable NTP",
            self._source.problem,
            self._listening.problem,
            self._metrics and self._metrics.fault,
            *self._painting.problems(),
            *(f"{name}: {why}" for name, why in self._failed_chores().items()),
            *(f"{name} hangs" for name in self._supervisor.late()),
        ]
        return [problem for problem in problems if problem]

    def _read_stored(self) -> dict[str, object]:
        """Return what station.db counts; what it counted last while it cannot be read."""
        try:
            self._stored = {"n_waiting": self._store.n_pending(), **self._today()}
        except StoreError as error:
            log.warning("health tells old counts: %s", error)
        return self._stored

    def _today(self) -> dict[str, float]:
        """Return the seconds heard, lost and slept since local midnight, over all runs."""
        now = self._clock.wall()
        moment = local(now, self._plan.who.timezone)
        midnight = instant_of(moment.replace(hour=0, minute=0, second=0, microsecond=0))
        intervals = with_newest(self._store.intervals(midnight, now), self._ledger.open)
        sums = sums_between(intervals, midnight, now)
        return {f"{kind}_today_s": round(seconds, 1) for kind, seconds in sums.items()}

    def _failed_chores(self) -> dict[str, str]:
        return {**self._minute.state(), **self._upkeep.state()}

    def _tell_untold(self) -> str:
        """Tell events whose messages are lost, as after a damage."""
        untold = self._store.untold()
        for event in untold:
            self._recorder.tell(event)
        return (
            f"{counted(len(untold), 'event')} told again: the messages were lost" if untold else ""
        )

    def _tell_again(self) -> None:
        """Tell a restored log what it may have lost: station.db has the last days still."""
        self._writer.post_forget_receipts()
        self._writer.drain(STORE_DRAIN_S)
        self._publisher.go_over_again()

    def _post_coverage(self) -> str:
        """Tell the intervals that are new or have grown since the last time."""
        intervals, who = self._intervals.take(), self._plan.who
        for start in range(0, len(intervals), messages.MAX_INTERVALS):
            part = tuple(intervals[start : start + messages.MAX_INTERVALS])
            coverage = messages.Coverage(who.name, who.key, uuid4().hex, part)
            self._writer.post_message(coverage.message_id, messages.coverage_message(coverage))
        return ""


def _check_trust(settings: Settings) -> None:
    if settings.mqtt.trust == "own" and not settings.log.enabled:
        raise ConfigError(
            "mqtt.trust is 'own', but log.enabled is false, so no receipt would ever come: name "
            "the hub's logger id, or 'any', or 'none'"
        )
