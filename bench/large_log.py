"""Makes a log of millions of detections, fast, and the same one every time.

A year of a hundred stations in three zones: species by a power law that differs from station to
station, a third of them migrants, each with its hours of the day; a spring four times as loud
as the winter, and days that differ. Ids are UUIDv7, so rows come in the order of time, as
from live stations. Rows go in past the logger, with the indices off; the roll-ups are then counted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, select

from fieldstation.clock import instant_of
from fieldstation.store.database import file_of
from fieldstation.store.log_db import COLUMNS, LogStore
from fieldstation.store.log_tables import COVERAGE, DETECTIONS, IMAGES, JOBS
from fieldstation.store.totals import count_anew

FIRST_DAY, N_DAYS = date(2025, 8, 1), 365
N_STATIONS = 100
NAMES = (
    ("Parus major", "Great Tit"),
    ("Turdus merula", "Common Blackbird"),
    ("Fringilla coelebs", "Common Chaffinch"),
    ("Erithacus rubecula", "European Robin"),
    ("Cyanistes caeruleus", "Eurasian Blue Tit"),
    ("Passer domesticus", "House Sparrow"),
    ("Sylvia atricapilla", "Eurasian Blackcap"),
    ("Strix aluco", "Tawny Owl"),
)
N_SPECIES = 120
ZONES = ("Europe/Berlin", "Europe/London", "Europe/Helsinki")
THRESHOLD = 0.43
ENCODER = "24dec36d9070a887"
DAY_US = 86_400_000_000
ONE_IN, PAINTED_DAYS, JOB_DAYS, THERE_DAYS, WAITING = 4, 60, 30, 10, 1_000
"""Of the events of the last days a part has a job and a picture, as a worker can paint them"""
DAWN, DUSK, NIGHT = range(3)
HOURS = {
    DAWN: [1, 1, 1, 2, 6, 12, 14, 12, 9, 7, 5, 4, 3, 3, 3, 3, 4, 5, 6, 5, 3, 1, 1, 1],
    DUSK: [1, 1, 1, 2, 4, 6, 6, 5, 4, 4, 4, 4, 4, 4, 4, 5, 6, 8, 10, 9, 5, 2, 1, 1],
    NIGHT: [9, 8, 7, 6, 5, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 6, 8, 9, 9, 9],
}
"""Calls by the hour, relatively"""

STATIONS = ("garden", "pond", *(f"station-{n:02d}" for n in range(2, N_STATIONS)))
KEYS = tuple(f"{n:016x}" for n in range(N_STATIONS))
PLACES = tuple(f"place {n}" for n in range(N_STATIONS))
_NUMBERED = ((f"Avis {n:03d}", f"Bird {n:03d}") for n in range(len(NAMES), N_SPECIES))
SCIENTIFIC, COMMON = zip(*NAMES, *_NUMBERED, strict=True)

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Avifauna:
    """Who may be heard where and when."""

    stations: NDArray[np.float64]
    """Share of each station"""
    affinity: NDArray[np.float64]
    """[station, species]"""
    migrates: NDArray[np.bool_]
    hours: NDArray[np.float64]
    """[species, 24], cumulative"""

    @classmethod
    def made(cls, rng: np.random.Generator) -> Avifauna:
        """Return one of a seed."""
        rank = np.arange(N_SPECIES) + 2.0
        affinity = rng.lognormal(0, 1.5, (N_STATIONS, N_SPECIES)) / rank**1.1
        affinity *= rng.random((N_STATIONS, N_SPECIES)) < 0.6
        affinity[:, :3] += 0.1  # everybody's birds
        kinds = rng.choice([DAWN, DAWN, DAWN, DUSK, NIGHT], N_SPECIES)
        kinds[:3], kinds[7] = DAWN, NIGHT
        hours = np.array([HOURS[kind] for kind in kinds], float)
        return cls(
            stations=rng.lognormal(0, 0.7, N_STATIONS),
            affinity=affinity / affinity.sum(axis=1, keepdims=True),
            migrates=(np.arange(N_SPECIES) % 3 == 2),
            hours=np.cumsum(hours / hours.sum(axis=1, keepdims=True), axis=1),
        )


def make(url: str, n_rows: int, seed: int = 0) -> None:
    """Fill an empty log."""
    log = LogStore(url)
    try:
        _insert(log, url, days(n_rows, seed))
        with log.database.write() as connection:
            if file_of(url):
                connection.exec_driver_sql("PRAGMA cache_size = -1000000")  # sorting in memory
            count_anew(connection)
            connection.execute(COVERAGE.insert(), list(intervals(seed)))
            _queue_and_paint(connection)
    finally:
        log.close()


def days(n_rows: int, seed: int = 0) -> Iterator[Rows]:
    """Yield rows of `detections`, a day of all stations at a time."""
    rng = np.random.default_rng(seed)
    fauna = Avifauna.made(rng)
    share = loudness() * rng.lognormal(0, 0.25, N_DAYS)
    per_day = rng.multinomial(n_rows, share / share.sum())
    sequence = [0] * N_STATIONS
    for number in range(N_DAYS):
        yield _day(rng, fauna, number, int(per_day[number]), sequence)


def loudness() -> NDArray[np.float64]:
    """Return how much is heard on each day, relatively: most in early May."""
    from_may = (np.arange(N_DAYS) - (date(2026, 5, 8) - FIRST_DAY).days) / 45.0
    return 0.35 + np.exp(-(from_may**2))


def _day(
    rng: np.random.Generator, fauna: Avifauna, number: int, n: int, sequence: list[int]
) -> Rows:
    """Return one day's rows in order of time."""
    day = FIRST_DAY + timedelta(days=number)
    away = fauna.migrates & (not 4 <= day.month <= 9)
    weights = fauna.stations[:, None] * fauna.affinity * ~away
    counts = rng.multinomial(n, (weights / weights.sum()).ravel())
    cells = np.repeat(np.arange(counts.size), counts)
    station, species = cells // N_SPECIES, cells % N_SPECIES
    hour = (rng.random(n)[:, None] > fauna.hours[species]).sum(axis=1)
    local_us = (hour * 3_600_000_000 + rng.integers(0, 3_600_000_000, n)).astype(np.int64)
    zone = station % 10 // 8 + station % 10 // 9  # eight of ten in the first
    midnight = np.array([_midnight(day, name) for name in ZONES])
    started = midnight[zone] + local_us
    order = np.argsort(started, kind="stable")
    station, species, zone = station[order], species[order], zone[order]
    started, local_us = started[order], local_us[order]
    n_windows = rng.geometric(0.45, n).clip(max=19)
    ended = started + 1_500_000 * (n_windows + 1)
    late = np.where(rng.random(n) < 0.01, rng.integers(0, 7_200_000_000, n), 0)
    received = ended + rng.integers(300_000, 3_000_000, n) + late
    probability = np.round(THRESHOLD + (1 - THRESHOLD) * rng.beta(1.3, 1.0, n), 4)
    bits = rng.integers(0, 2**62, n).tolist()
    where = station.tolist()
    return list(
        zip(
            map(_uuid7, started.tolist(), bits),
            map(STATIONS.__getitem__, where),
            map(KEYS.__getitem__, where),
            _numbered(where, sequence),
            started.tolist(),
            ended.tolist(),
            map(ZONES.__getitem__, zone.tolist()),
            map(SCIENTIFIC.__getitem__, species.tolist()),
            map(COMMON.__getitem__, species.tolist()),
            probability.tolist(),
            repeat(THRESHOLD),
            repeat(ENCODER),
            n_windows.tolist(),
            (50.0 + station / 50).tolist(),
            (8.0 + station / 25).tolist(),
            map(PLACES.__getitem__, where),
            (f"{day:%Y/%m}/{b:016x}.flac" if b % 5 else None for b in bits),
            repeat("hw:CARD=USB"),
            _local_texts(day, zone, local_us),
            received.tolist(),
            repeat(day.isoformat()),
            strict=False,
        )
    )


def _numbered(stations: list[int], sequence: list[int]) -> Iterator[int]:
    for station in stations:
        sequence[station] += 1
        yield sequence[station]


def _local_texts(day: date, zone: NDArray[np.int64], us: NDArray[np.int64]) -> list[str]:
    """Return ISO 8601 of microseconds after midnight; a clock change comes at the day's end."""
    offsets = [
        f"{datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(z)):%z}" for z in ZONES
    ]
    ends = [f"{offset[:3]}:{offset[3:]}" for offset in offsets]
    moments = np.datetime64(day.isoformat(), "us") + us.astype("timedelta64[us]")
    texts = np.datetime_as_string(moments, unit="us").tolist()
    return [text + ends[number] for text, number in zip(texts, zone.tolist(), strict=True)]


def _midnight(day: date, zone: str) -> int:
    """Return the instant of local midnight by the offset that holds at noon."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone))
    return instant_of(noon.astimezone(UTC)) - DAY_US // 2


def _uuid7(at: int, bits: int) -> str:
    """Return a UUIDv7 of an instant and 62 random bits."""
    ms = at // 1000
    head = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{bits & 0xFFF:03x}"
    return f"{head}-{0x8000 | bits >> 12 & 0x3FFF:04x}-{bits >> 14:012x}"


def intervals(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield coverage: each station sleeps at night, and some days misses a moment."""
    rng = np.random.default_rng(seed + 1)
    for where in range(N_STATIONS):
        for number in range(N_DAYS):
            midnight = _midnight(FIRST_DAY + timedelta(days=number), ZONES[0])
            gap = int(rng.integers(5 * 3600, 20 * 3600))
            has_gap = rng.random() < 0.3
            parts = [
                (0, 3 * 3600, "lost", "asleep"),
                (3 * 3600, gap if has_gap else 22 * 3600, "heard", ""),
            ]
            if has_gap:
                parts += [(gap, gap + 2, "lost", "overflow"), (gap + 2, 22 * 3600, "heard", "")]
            parts += [(22 * 3600, 24 * 3600, "lost", "asleep")]
            for begin, end, state, cause in parts:
                yield {
                    "station_key": KEYS[where],
                    "run_id": f"{where:02d}-{number // 30:02d}",
                    "started_at": midnight + begin * 1_000_000,
                    "state": state,
                    "station": STATIONS[where],
                    "duration_s": float(end - begin),
                    "cause": cause,
                }


def _queue_and_paint(connection: Connection) -> None:
    """Make the jobs of the last month, and the pictures of two: files are left of ten days."""
    last = FIRST_DAY + timedelta(days=N_DAYS - 1)
    for n_days in range(PAINTED_DAYS, -1, -1):
        day = last - timedelta(days=n_days)
        of_day = select(DETECTIONS).where(DETECTIONS.c.local_date == day.isoformat())
        rows = connection.execute(of_day.order_by(DETECTIONS.c.event_id)).all()[::ONE_IN]
        images = [_image(row, is_there=n_days < THERE_DAYS) for row in rows]
        connection.execute(IMAGES.insert(), images)
        if n_days < JOB_DAYS:
            jobs = [_job(row, number, n_days == 0) for number, row in enumerate(rows)]
            connection.execute(JOBS.insert(), jobs)


def _image(row: Row[Any], is_there: bool) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "station": row.station,
        "generator_id": "2f1c",
        "seed": row.started_at % 1_000_003,
        "is_of_call": True,
        "file": f"{row.local_date}/{row.event_id}.png" if is_there else None,
        "width": 256,
        "height": 256,
        "n_bytes": 90_000,
        "sha256": "0" * 64,
        "made_at": row.received_at + 5_000_000,
        "paint_ms": 900.0,
        "provider": "CPUExecutionProvider",
        "published_at": row.received_at + 5_100_000,
    }


def _job(row: Row[Any], number: int, is_today: bool) -> dict[str, Any]:
    """Return a job that is done; one of a hundred is parked, of today's some wait."""
    state = "queued" if is_today and number < WAITING else "done" if number % 100 else "parked"
    return {
        "event_id": row.event_id,
        "station": row.station,
        "started_at": row.started_at,
        "local_date": row.local_date,
        "scientific_name": row.scientific_name,
        "priority": 1,
        "state": state,
        "n_failures": 3 if state == "parked" else 0,
        "n_deaths": 0,
        "reason": "the generator has no such species" if state == "parked" else None,
        "made_at": row.received_at,
        "ended_at": None if state == "queued" else row.received_at + 5_000_000,
    }


def _insert(log: LogStore, url: str, chunks: Iterator[Rows]) -> None:
    path = file_of(url)
    if path is None:
        _copy_in(log, chunks)
    else:
        _insert_in(path, chunks)


def _insert_in(path: Path, chunks: Iterator[Rows]) -> None:
    marks = ", ".join("?" * len(COLUMNS))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")  # a file that is made anew where this breaks off
    connection.execute("PRAGMA cache_size = -500000")
    query = (
        "SELECT name, sql FROM sqlite_schema"
        " WHERE tbl_name = 'detections' AND type = 'index' AND sql <> ''"
    )
    indices = connection.execute(query).fetchall()
    for name, _ in indices:
        connection.execute(f"DROP INDEX {name}")
    for rows in chunks:
        connection.execute("BEGIN")
        connection.executemany(
            f"INSERT INTO detections ({', '.join(COLUMNS)}) VALUES ({marks})", rows
        )
        connection.execute("COMMIT")
    for _, sql in indices:
        connection.execute(sql)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _copy_in(log: LogStore, chunks: Iterator[Rows]) -> None:
    with log.database.write() as connection:
        query = (
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE tablename = 'detections' AND indexname <> 'detections_pkey'"
        )
        indices = connection.exec_driver_sql(query).all()
        for name, _ in indices:
            connection.exec_driver_sql(f"DROP INDEX {name}")
        driver: Any = connection.connection.driver_connection
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY detections ({', '.join(COLUMNS)}) FROM STDIN") as copy,
        ):
            for rows in chunks:
                for row in rows:
                    copy.write_row(row)
        for _, sql in indices:
            connection.exec_driver_sql(sql)
