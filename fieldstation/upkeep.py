"""The chores of a running station, and of a hub: retention, nightly backups, the daily summary."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from fieldstation.ageing import AgeingClock
from fieldstation.clips.retention import expire
from fieldstation.clock import US_PER_S, Clock, instant_of, local
from fieldstation.config import Settings
from fieldstation.gallery import Gallery, GalleryError
from fieldstation.mqtt.messages import SpeciesCount, Summary, summary_message
from fieldstation.pictures import retain
from fieldstation.records import ClipState, Hearing, StationIdentity
from fieldstation.schedule import Chore
from fieldstation.state import State, Vitals
from fieldstation.store.backup import back_up
from fieldstation.store.coverage_query import coverage
from fieldstation.store.damage import find_damage
from fieldstation.store.database import file_of
from fieldstation.store.errors import DamagedDatabase, StoreError
from fieldstation.store.late_log import LateLog
from fieldstation.store.query import Filter, species
from fieldstation.store.retention import forget, pause_for
from fieldstation.store.station_db import KEEP_DELIVERED_DAYS
from fieldstation.store.writer import StoreThread
from fieldstation.words import counted

RETENTION_EVERY_S, RETENTION_FIRST_S = 3_600.0, 120.0
"""Soon, since a station may be switched on for half an hour a day; not at once, when all is read"""
LOOK_EVERY_S, LOOK_FIRST_S = 86_400.0, 600.0
LOOKED = "looked"
"""Name of the small file that says when both databases were last read for damage"""
FORGET_EVERY_S, FORGET_FOR_S = 60.0, 5.0
"""A little at a time: a season of old rows is gone in a day, and who stops need not wait for it"""
BYTES_PER_MB = 1_000_000
FAULTS = (OSError, StoreError, GalleryError)


class Upkeep:
    """Does one chore at a time, in the thread of the chores' stage."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        who: StationIdentity,
        writer: StoreThread,
        log: LateLog | None,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._state = state
        self._who = who
        self._writer = writer
        self._log = log
        self._clock = clock
        notes = state.notes()
        self._ageing = AgeingClock(clock, notes)
        self._looks = Looks(clock, notes)

    def chores(self) -> list[Chore]:
        """Return the chores with their times."""
        times = self._settings.schedule
        hourly = partial(
            Chore, every_s=RETENTION_EVERY_S, first_s=RETENTION_FIRST_S, on_fault=FAULTS
        )
        return [
            hourly("retention", self.retain),
            hourly("pictures", self.retain_pictures),
            Chore("forget", self.forget, every_s=FORGET_EVERY_S, on_fault=FAULTS),
            self._looks.chore(self.look),
            Chore("backup", self.back_up, at=times.backup_at, on_fault=FAULTS),
            Chore("summary", self.sum_up, at=times.summary_at, on_fault=FAULTS),
        ]

    def retain(self) -> str:
        """Remove clips and delivered events that are past their time."""
        keep = self._settings.clips
        now = self._ageing.wall()
        limit = keep.max_size_mb * BYTES_PER_MB
        expired: list[UUID] = expire(self._state.clips, keep.max_age_days, limit, now)
        for event_id in expired:
            self._writer.post_clip_state(event_id, ClipState.EXPIRED)
        self._writer.post_prune(now - KEEP_DELIVERED_DAYS * 86_400 * US_PER_S)
        return f"{counted(len(expired), 'clip')} removed" if expired else ""

    def retain_pictures(self) -> str:
        """Remove pictures, and what the log keeps to paint them, that are past their time."""
        if self._log is None:
            return ""
        log, gallery = self._log, Gallery(self._state.images)
        keep, now = self._settings.generation, self._ageing.wall()
        return retain(lambda: log.opened().database, gallery, keep, now)

    def forget(self) -> str:
        """Take some of what is past its time out of the log."""
        return forget_old(self._log, self._settings, self._ageing) if self._log else ""

    def look(self) -> str:
        """Read both databases for damage; what is found has them restored."""
        if damage := find_damage(self._state.station_db, thorough=True):
            self._writer.suspect(damage)
        path = file_of(self._state.log_url(self._settings.log.database))
        if self._log and path and (damage := find_damage(path)):
            self._log.suspect(damage)
        return ""

    def back_up(self) -> str:
        """Copy station.db, and the log where it is a file of this station's."""
        copies = [self._copy(self._state.station_db, self._writer.suspect)]
        if self._log and not self._settings.log.database:
            copies.append(self._copy(self._state.log_db, self._log.suspect))
        return ", ".join(map(str, copies))

    def _copy(self, database: Path, suspect: Callable[[str], None]) -> Path:
        kept = self._settings.schedule.backups_kept
        return copy_of(database, self._state.backups, kept, self._clock, suspect)

    def sum_up(self) -> str:
        """Publish what was heard since local midnight; return it in words."""
        if self._log is None:
            return ""
        who, now = self._who, self._clock.wall()
        moment = local(now, who.timezone)
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        since, tomorrow = instant_of(midnight), instant_of(midnight + timedelta(days=1))
        log = self._log.opened()
        found = species(log, Filter(since=since, until=tomorrow, station=who.name))
        sums = coverage(log, since, now, who.name).sums
        summary = Summary(
            station=who.name,
            station_key=who.key,
            message_id=uuid4().hex,
            date=f"{moment:%Y-%m-%d}",
            timezone=who.timezone,
            species=tuple(
                SpeciesCount(s.scientific_name, s.common_name, s.n, s.first_at, s.last_at)
                for s in found
            ),
            heard_s=sum(s.duration_s for s in sums if s.state is Hearing.HEARD),
            lost_s=sum(s.duration_s for s in sums if s.state is Hearing.LOST),
        )
        self._writer.post_message(summary.message_id, summary_message(summary))
        birds = ", ".join(f"{s.common_name} {s.n_events}" for s in summary.species)
        return f"{summary.date}: {birds or 'nothing heard'}"


class LogUpkeep:
    """The chores of a log that is kept for others: a hub's."""

    def __init__(
        self, log: LateLog, url: str, state: State, settings: Settings, ageing: AgeingClock
    ) -> None:
        """Say which log, and whose folder keeps its copies."""
        self._log = log
        self._path = file_of(url)
        self._backups = state.backups
        self._settings = settings
        self._ageing = ageing
        self._clock = ageing.clock
        self._looks = Looks(self._clock, state.notes())

    def chores(self) -> list[Chore]:
        """Return the chores with their times; a server's database has its own backups."""
        chores = [Chore("forget", self.forget, every_s=FORGET_EVERY_S, on_fault=FAULTS)]
        if self._path is None:
            return chores
        at = self._settings.schedule.backup_at
        return [
            *chores,
            self._looks.chore(self.look),
            Chore("backup", self.back_up, at=at, on_fault=FAULTS),
        ]

    def forget(self) -> str:
        """Take some of what is past its time out of the log."""
        return forget_old(self._log, self._settings, self._ageing)

    def look(self) -> str:
        """Read the log for damage; what is found has it restored."""
        assert self._path is not None
        if damage := find_damage(self._path):
            self._log.suspect(damage)
        return ""

    def back_up(self) -> str:
        """Copy the log."""
        assert self._path is not None
        kept = self._settings.schedule.backups_kept
        return str(copy_of(self._path, self._backups, kept, self._clock, self._log.suspect))


class Looks:
    """Remembers when the databases were looked at, over any number of restarts."""

    def __init__(self, clock: Clock, notes: Vitals) -> None:
        self._clock = clock
        self._notes = notes

    def chore(self, look: Callable[[], str]) -> Chore:
        """Return the daily look; the first a day after the last run's, and soon where none was."""

        def look_and_note() -> str:
            try:
                return look()
            finally:  # one that came to no end would come to none at the next start either
                with suppress(OSError):
                    self._notes.write(LOOKED, {"at": self._clock.wall()})

        return Chore(
            "look for damage",
            look_and_note,
            every_s=LOOK_EVERY_S,
            first_s=self._first_s(),
            on_fault=FAULTS,
        )

    def _first_s(self) -> float:
        at = self._notes.read(LOOKED).get("at")
        if not isinstance(at, int):
            return LOOK_FIRST_S
        since_s = (self._clock.wall() - at) / US_PER_S
        is_due = not 0 <= since_s <= LOOK_EVERY_S - LOOK_FIRST_S
        return LOOK_FIRST_S if is_due else LOOK_EVERY_S - since_s


def copy_of(
    database: Path, folder: Path, kept: int, clock: Clock, suspect: Callable[[str], None]
) -> Path:
    """Back a database up; one that cannot be read to its end is to be restored."""
    try:
        return back_up(database, folder, kept, clock)
    except DamagedDatabase as error:
        suspect(str(error))
        raise


def forget_old(log: LateLog, settings: Settings, clock: Clock) -> str:
    """Take detections that are past their time out of a log, for a few seconds; say how many."""
    days = settings.log.max_age_days
    if not days:
        return ""
    before = clock.wall() - days * 86_400 * US_PER_S
    n = forget(log.opened().database, before, pause_for(FORGET_FOR_S))
    return f"{counted(n, 'detection')} left the log" if n else ""
