"""The chores that a running station does by the clock."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from fieldstation.ageing import AgeingClock
from fieldstation.clock import SystemClock, parse_instant
from fieldstation.config import ClipSettings, GenerationSettings, LogSettings, Settings
from fieldstation.gallery import Gallery
from fieldstation.mqtt.messages import read_summary
from fieldstation.records import Detection, Hearing, Interval, Message, StationIdentity
from fieldstation.schedule import Chore
from fieldstation.state import State
from fieldstation.store import query
from fieldstation.store.errors import DamagedDatabase, StoreUnavailable
from fieldstation.store.images import record_image
from fieldstation.store.late_log import LateLog
from fieldstation.store.query import Filter
from fieldstation.store.station_db import StationStore
from fieldstation.store.writer import StoreThread
from fieldstation.upkeep import LogUpkeep, Upkeep
from tests.fakes import FakeClock
from tests.store.examples import image

WHO = StationIdentity("hedge", "0123456789abcdef", "Europe/Berlin")
DAY_S = 86_400
EVENING = parse_instant("2026-05-01T21:00:00+02:00")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def store(state: State) -> Iterator[StationStore]:
    store = StationStore(state.station_db)
    yield store
    store.close()


@pytest.fixture
def log(state: State) -> Iterator[LateLog]:
    log = LateLog(state.log_url(""), backups=state.backups)
    yield log
    log.close()


def upkeep(
    state: State,
    store: StationStore,
    log: LateLog,
    settings: Settings | None = None,
    now: int = EVENING,
    clock: FakeClock | None = None,
) -> tuple[Upkeep, StoreThread]:
    writer = StoreThread(store)
    return Upkeep(
        settings or Settings(), state, WHO, writer, log, clock or FakeClock(wall=now)
    ), writer


def write_out(writer: StoreThread) -> None:
    """Commit what was posted."""
    stop = threading.Event()
    stop.set()
    writer.run(stop, lambda: None)


def detection(number: int, at: str, species: str = "Fringilla coelebs") -> Detection:
    started_at = parse_instant(at)
    return Detection(
        event_id=str(UUID(int=number)),
        station="hedge",
        station_key=WHO.key,
        sequence=number,
        started_at=started_at,
        ended_at=started_at + 3_000_000,
        timezone="Europe/Berlin",
        scientific_name=species,
        common_name={"Fringilla coelebs": "Chaffinch"}.get(species, "Great Tit"),
        probability=0.9,
        threshold=0.5,
        encoder_id="abc",
    )


def test_the_summary_counts_the_local_day(state: State, store: StationStore, log: LateLog) -> None:
    """Yesterday evening and the hour before local midnight do not belong to today."""
    heard = [
        detection(1, "2026-04-30T23:59:59+02:00"),
        detection(2, "2026-05-01T00:00:00+02:00"),
        detection(3, "2026-05-01T12:00:00+02:00"),
        detection(4, "2026-05-01T13:00:00+02:00", "Parus major"),
    ]
    log.record(heard, EVENING)
    midnight = parse_instant("2026-05-01T00:00:00+02:00")
    intervals = [
        Interval("run", midnight - 3_600_000_000, 7_200.0, Hearing.HEARD),
        Interval("run", midnight + 3_600_000_000, 60.0, Hearing.LOST, "microphone"),
    ]
    log.record_coverage("hedge", WHO.key, intervals)
    chores, writer = upkeep(state, store, log)
    assert chores.sum_up() == "2026-05-01: Chaffinch 2, Great Tit 1"
    write_out(writer)
    (row,) = store.pending()
    summary = read_summary(row.message.topic, row.message.payload)
    assert [(s.common_name, s.n_events) for s in summary.species] == [
        ("Chaffinch", 2),
        ("Great Tit", 1),
    ]
    assert (summary.heard_s, summary.lost_s) == (3_600.0, 60.0)


def test_a_day_without_birds_is_told_too(state: State, store: StationStore, log: LateLog) -> None:
    """Silence is an observation."""
    chores, _ = upkeep(state, store, log)
    assert chores.sum_up() == "2026-05-01: nothing heard"


def test_backups_are_made_and_rotated(state: State, store: StationStore, log: LateLog) -> None:
    """Both databases, the newest so many."""
    settings = Settings()
    settings = replace(settings, schedule=replace(settings.schedule, backups_kept=2))
    for day in range(3):
        chores, _ = upkeep(state, store, log, settings, EVENING + day * 86_400_000_000)
        chores.back_up()
    names = sorted(path.name for path in state.backups.iterdir())
    assert names == [
        "log-20260502T190000Z.db",
        "log-20260503T190000Z.db",
        "station-20260502T190000Z.db",
        "station-20260503T190000Z.db",
    ]


def test_damage_that_nobody_met_yet_is_looked_for(
    state: State, store: StationStore, log: LateLog
) -> None:
    """Both files are marked for their keepers; whole ones are not."""
    chores, _ = upkeep(state, store, log)
    log.record([detection(1, "2026-05-01T12:00:00+02:00")], EVENING)
    chores.look()
    assert not store.database.damaged.is_set()
    assert not log.opened().database.damaged.is_set()
    for path, table in ((state.station_db, "outbox"), (state.log_db, "detections")):
        break_table(path, table)
    chores.look()
    assert store.database.damaged.is_set()
    with pytest.raises(StoreUnavailable, match="being restored"):
        log.opened()
    wait_until_restored(log)


def test_a_backup_that_meets_damage_has_the_file_restored(
    state: State, store: StationStore, log: LateLog
) -> None:
    """And leaves the older copies as they are."""
    chores, _ = upkeep(state, store, log)
    store.post_message("a", Message("t", b"1"))
    chores.back_up()
    break_table(state.station_db, "outbox")
    with pytest.raises(DamagedDatabase):
        chores.back_up()
    assert store.database.damaged.is_set()
    assert len(list(state.backups.glob("station-*.db"))) == 1


def break_table(path: Path, table: str) -> None:
    """Overwrite a table's first page."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        page: int = database.execute(query, (table,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


def wait_until_restored(log: LateLog) -> None:
    """Ask as the logger does."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(StoreUnavailable):
            log.opened()
            return
        time.sleep(0.01)
    raise AssertionError("never restored")


def test_retention_removes_clips_by_size_and_delivered_messages_by_age(
    state: State, store: StationStore, log: LateLog
) -> None:
    """The oldest clips go first; what is not confirmed stays however old it is."""
    folder = state.clips / "2026-05-01"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{UUID(int=number)}.flac").write_bytes(b"x" * 700_000)
    store.post_message("delivered", Message("t", b"1"))
    store.post_message("waiting", Message("t", b"2"))
    store.confirm(["delivered"])
    settings = replace(Settings(), clips=ClipSettings(max_size_mb=1, max_age_days=0))
    next_month = SystemClock().wall() + 31 * 86_400_000_000
    chores, writer = upkeep(state, store, log, settings, next_month)
    assert chores.retain() == "2 clips removed"
    assert chores.retain() == ""
    write_out(writer)
    assert len(list(folder.iterdir())) == 1
    assert [row.id for row in store.pending()] == ["waiting"]


def test_a_station_that_never_runs_for_an_hour_makes_room_too(
    state: State, store: StationStore, log: LateLog
) -> None:
    """By a timer or a panel of solar cells, clips would gather until the disk is full."""
    chores, _ = upkeep(state, store, log)
    first = {chore.name: chore.first_s for chore in chores.chores()}
    assert first["retention"] is not None
    assert first["pictures"] is not None
    assert max(first["retention"], first["pictures"]) <= 300


def test_old_pictures_go_with_their_time(state: State, store: StationStore, log: LateLog) -> None:
    """The oldest first; without a log of its own a station has none to remove."""
    gallery = Gallery(state.images)
    log.record([detection(n, "2026-05-01T04:00:00Z") for n in (1, 2)], EVENING)
    with log.opened().database.write() as connection:
        for number, age_days in ((1, 40), (2, 1)):
            made_at = EVENING - age_days * 86_400_000_000
            record_image(connection, image(number, file=f"{number}.png", made_at=made_at))
            gallery.write(f"{number}.png", b"png")
    settings = replace(Settings(), generation=GenerationSettings(max_age_days=30))
    chores, _ = upkeep(state, store, log, settings)
    assert chores.retain_pictures() == "1 picture removed"
    assert [path.name for path in state.images.iterdir()] == ["2.png"]
    writer = StoreThread(store)
    without = Upkeep(settings, state, WHO, writer, None, FakeClock(wall=EVENING))
    assert without.retain_pictures() == ""


def test_what_is_past_its_time_leaves_the_log(
    state: State, store: StationStore, log: LateLog
) -> None:
    """A month at a time, where the settings say so; without a word of them nothing ever."""
    old, new = detection(1, "2026-02-01T06:00:00+01:00"), detection(2, "2026-05-01T06:00:00+02:00")
    for one in (old, new):
        log.record([one], one.ended_at)
    in_may = parse_instant("2026-05-20T06:00:00+02:00")
    keep = LogSettings(max_age_days=30)
    for settings, left in ((Settings(), [new, old]), (Settings(log=keep), [new])):
        chores, _ = upkeep(state, store, log, settings, now=in_may)
        assert chores.forget() == ("1 detection left the log" if settings.log is keep else "")
        assert list(query.detections(log.opened(), Filter())) == left


def test_a_hub_s_log_is_copied_and_forgets(state: State, log: LateLog) -> None:
    """Where it is a file; a server's database has its own backups."""
    settings = Settings(log=LogSettings(max_age_days=1))
    log.record([detection(1, "2026-02-01T06:00:00+01:00")], EVENING - 5 * 86_400_000_000)
    ageing = AgeingClock(FakeClock(wall=EVENING), state.notes())
    hub = LogUpkeep(log, state.log_url(""), state, settings, ageing)
    assert {chore.name for chore in hub.chores()} == {"forget", "look for damage", "backup"}
    assert hub.look() == ""
    copy = Path(hub.back_up())
    assert hub.forget() == "1 detection left the log"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM detections").fetchone() == (1,)
    server = LogUpkeep(log, "postgresql:///birds", state, settings, ageing)
    assert [chore.name for chore in server.chores()] == ["forget"]


def test_a_clock_that_leaps_ahead_for_hours_removes_nothing(
    state: State, store: StationStore, log: LateLog
) -> None:
    """Clips, delivered messages and the log's months stay, over a restart in the midst too."""
    clip = state.clips / "2026-05-01" / f"{UUID(int=1)}.flac"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x")
    clock = FakeClock(wall=SystemClock().wall())
    store.post_message("delivered", Message("t", b"1"))
    store.confirm(["delivered"])
    log.record([detection(1, "2026-05-01T06:00:00+02:00")], clock.wall())
    settings = Settings(clips=ClipSettings(max_age_days=30), log=LogSettings(max_age_days=30))
    chores, writer = upkeep(state, store, log, settings, clock=clock)
    chores.retain()
    clock.step(5 * 365 * DAY_S)
    for _ in range(2):
        for _ in range(11):
            assert (chores.retain(), chores.forget()) == ("", "")
            clock.advance(3_600)
        chores, writer = upkeep(state, store, log, settings, clock=clock)
    write_out(writer)
    assert clip.exists()
    with store.database.read() as connection:
        n_messages = connection.exec_driver_sql("SELECT count(*) FROM outbox").scalar_one()
    assert n_messages == 1
    clock.advance(4 * 3_600)  # it has stood for a day
    assert chores.retain() == "1 clip removed"
    assert chores.forget() == "1 detection left the log"


def test_a_full_disk_makes_room_whatever_the_clock_says(
    state: State, store: StationStore, log: LateLog
) -> None:
    """Size knows no time."""
    clip = state.clips / "2026-05-01" / f"{UUID(int=1)}.flac"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"x" * 1_100_000)
    clock = FakeClock(wall=SystemClock().wall())
    settings = Settings(clips=ClipSettings(max_size_mb=1))
    chores, _ = upkeep(state, store, log, settings, clock=clock)
    clock.step(5 * 365 * DAY_S)
    assert chores.retain() == "1 clip removed"


def test_a_station_restarted_every_day_is_looked_at_every_day(
    state: State, store: StationStore, log: LateLog
) -> None:
    """The first look comes a day after the last run's, and soon where there was none."""

    def first_look(clock: FakeClock) -> Chore:
        chores, _ = upkeep(state, store, log, clock=clock)
        (look,) = (chore for chore in chores.chores() if chore.name == "look for damage")
        return look

    clock = FakeClock(wall=EVENING)
    look = first_look(clock)
    assert look.first_s == 600.0
    look.work()
    clock.advance(3_600)
    assert first_look(clock).first_s == 23 * 3_600
    clock.advance(23 * 3_600)
    assert first_look(clock).first_s == 600.0
