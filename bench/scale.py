"""What a log of ten million detections from a hundred stations costs.

    python -m bench.scale --rows 10000000 --database work/large.db       # made where it is missing
    python -m bench.scale --database postgresql://user@host/empty

Times every question that `detections`, `species` and `coverage` ask (`watch` asks a broker, not the
log) and every query of docs/schema.md, with the plan that SQLite or PostgreSQL chose; then how long
a commit takes: alone, beside readers, beside a backup, a look for damage, and retention. A commit
here is what the logger does with one detection, or with a batch of twenty, a hundred times a second
or as often as it can. `bench.ingest` measures the way there, from a broker. On a machine that does
other work, `chrt -r 1` before the command gives it precedence; the results say whether it had.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import event, func, select, text

from bench import large_log
from bench.large_log import FIRST_DAY, N_DAYS
from fieldstation.clock import parse_instant
from fieldstation.store import picture_query, query
from fieldstation.store.backup import back_up
from fieldstation.store.coverage_query import coverage
from fieldstation.store.damage import find_damage
from fieldstation.store.database import file_of
from fieldstation.store.images import Images
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
from fieldstation.store.log_tables import DAILY
from fieldstation.store.picture_query import STATES
from fieldstation.store.query import Filter
from fieldstation.store.retention import forget
from tests.store.examples import detection

RESULTS = Path(__file__).parent / "results" / "scale.json"
PAGE = Path(__file__).parent.parent / "docs" / "schema.md"
QUERY = re.compile(r"^(\S[^\n]*):\n\n```sql\n(.*?)```", re.MULTILINE | re.DOTALL)
REPEATS = 11
PROMISED_MS = 50.0
LONGEST_S = 0.1
COMMITS_S = 20.0
N_READERS = 4
DAY_US = 86_400_000_000
NOW = parse_instant("2026-07-31T20:17:31Z")
"""An evening at the end of what the log holds"""
MIDNIGHT = NOW - NOW % DAY_US - DAY_US // 12
MAY, JUNE = parse_instant("2026-05-01T00:00+02:00"), parse_instant("2026-06-01T00:00+02:00")

Question = Callable[[LogStore], object]


def _detections(**wanted: Any) -> Question:
    return lambda log: list(query.detections(log, Filter(**wanted)))


def _species(**wanted: Any) -> Question:
    return lambda log: query.species(log, Filter(**wanted))


def _pictures(states: Sequence[str] = STATES, **wanted: Any) -> Question:
    return lambda log: list(picture_query.pictures(log, Filter(**wanted), states))


def _queue(log: LogStore) -> Jobs:
    return Jobs(lambda: log.database, lambda: NOW)


def _images(log: LogStore) -> Images:
    return Images(lambda: log.database, lambda: NOW)


QUESTIONS: dict[str, Question] = {
    "detections --limit 20": _detections(limit=20),
    "detections --limit 500": _detections(limit=500),
    "detections --since 1h": _detections(since=NOW - DAY_US // 24, until=NOW),
    "detections --species 'parus major' --limit 20": _detections(species="parus major", limit=20),
    "detections --species tit --limit 20": _detections(species="tit", limit=20),
    "detections --species bird --limit 20": _detections(species="bird", limit=20),
    "detections --station garden --limit 20": _detections(station="garden", limit=20),
    "detections --station garden --since 24h": _detections(
        station="garden", since=NOW - DAY_US, until=NOW
    ),
    "detections --station garden --species robin --limit 20": _detections(
        station="garden", species="robin", limit=20
    ),
    "detections --min-probability 0.9 --limit 20": _detections(min_probability=0.9, limit=20),
    "detections --min-probability 0.999 --limit 20": _detections(min_probability=0.999, limit=20),
    "species": _species(),
    "species --since today": _species(since=MIDNIGHT),
    "species --since 7d": _species(since=NOW - 7 * DAY_US),
    "species --since 30d": _species(since=NOW - 30 * DAY_US),
    "species --since May --until June": _species(since=MAY, until=JUNE),
    "species of a year less a day and two hours": _species(
        since=MAY - 200 * DAY_US + DAY_US // 12, until=MAY + 60 * DAY_US
    ),
    "species --min-probability 0.9": _species(min_probability=0.9),
    "species --min-probability 0.9 --since 30d": _species(
        min_probability=0.9, since=NOW - 30 * DAY_US
    ),
    "species --species tit": _species(species="tit"),
    "species --station garden": _species(station="garden"),
    "species --station garden --since 30d": _species(station="garden", since=NOW - 30 * DAY_US),
    "species --station station-73 --since 30d": _species(
        station="station-73", since=NOW - 30 * DAY_US
    ),
    "species --station garden --min-probability 0.9": _species(
        station="garden", min_probability=0.9
    ),
    "coverage, all stations, 24 h": lambda log: coverage(log, NOW - DAY_US, NOW),
    "coverage --station garden, 24 h": lambda log: coverage(log, NOW - DAY_US, NOW, "garden"),
    "coverage --station garden --since 30d": lambda log: coverage(
        log, NOW - 30 * DAY_US, NOW, "garden"
    ),
    "images --limit 20": _pictures(limit=20),
    "images --since today --limit 20": _pictures(since=MIDNIGHT, limit=20),
    "images --station garden --limit 20": _pictures(station="garden", limit=20),
    "images --species tit --limit 20": _pictures(species="tit", limit=20),
    "images --only painted --limit 20": _pictures(("painted",), limit=20),
    "images --only parked --limit 20": _pictures(("parked",), limit=20),
    "a worker looks what to paint": lambda log: _queue(log).state(),
    "pictures that wait for the broker": lambda log: _images(log).unpublished(0, 100),
    "pictures that are past their time": lambda log: _images(log).expired(None, 10**12),
    "detection_view, one by its id": lambda log: _one_by_id(log),
    "detection_view, a station's day": lambda log: _ask(
        log,
        "SELECT * FROM detection_view WHERE station = 'garden' AND local_date = '2026-05-01'",
    ),
    "detection_view, how many on a day": lambda log: _ask(
        log, "SELECT count(*) FROM detection_view WHERE local_date = '2026-05-01'"
    ),
}
BEYOND: dict[str, Question] = {
    "species --min-probability 0.93": _species(min_probability=0.93),
    "coverage, all stations, 30 days": lambda log: coverage(log, NOW - 30 * DAY_US, NOW),
}
"""What is not promised: read with the limits in docs/decisions/storage.md"""


def _ask(log: LogStore, sql: str) -> list[Any]:
    with log.database.read() as connection:
        return list(connection.execute(text(sql)).all())


def _one_by_id(log: LogStore) -> list[Any]:
    (newest,) = query.detections(log, Filter(limit=1))
    return _ask(log, f"SELECT * FROM detection_view WHERE event_id = '{newest.event_id}'")


def documented() -> dict[str, Question]:
    """Return the queries of docs/schema.md that are asked of the log."""
    page = PAGE.read_text(encoding="utf-8").partition("\n## station.db\n")[0]

    def question(sql: str) -> Question:
        return lambda log: _ask(log, sql)

    return {f"schema.md: {title}": question(sql) for title, sql in QUERY.findall(page)}


def time_questions(log: LogStore, questions: dict[str, Question]) -> dict[str, dict[str, Any]]:
    """Return the median and the longest time of each, and print it with its plan."""
    found: dict[str, dict[str, Any]] = {}
    for name, question in questions.items():
        question(log)  # once, for what is then in memory
        times, busy = zip(*(_times(lambda q=question: q(log)) for _ in range(REPEATS)), strict=True)
        found[name] = {
            "median_ms": round(statistics.median(times), 2),
            "max_ms": round(max(times), 2),
            "cpu_ms": round(statistics.median(busy), 2),
        }
        told = "{median_ms:9.2f} ms (worst {max_ms:.2f}, of processor {cpu_ms:.2f})".format_map(
            found[name]
        )
        print(f"{told}  {name}")
        for step in plans(log, question):
            print(f"               {step}")
    return found


def _times(action: Callable[[], object]) -> tuple[float, float]:
    """Return the milliseconds that passed, and those of this thread on a processor."""
    busy = time.thread_time()
    passed = _seconds(action)
    return passed * 1e3, (time.thread_time() - busy) * 1e3


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def plans(log: LogStore, question: Question) -> Iterator[str]:
    """Yield the steps in which the database answers a question."""
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.lstrip().startswith(("SELECT", "WITH")):
            asked.append((sql, parameters))

    event.listen(log.database.engine, "before_cursor_execute", note)
    question(log)
    event.remove(log.database.engine, "before_cursor_execute", note)
    is_sqlite = log.database.engine.dialect.name == "sqlite"
    explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN (COSTS OFF)"
    with log.database.read() as connection:
        for sql, parameters in asked:
            steps = connection.exec_driver_sql(f"{explain} {sql}", parameters).all()
            yield from (str(step[3] if is_sqlite else step[0]) for step in steps)


@dataclass
class Commits(threading.Thread):
    """Writes detections like a logger, and notes how long each commit took."""

    url: str
    first: int
    size: int
    every_s: float
    took_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Write until told to stop."""
        log = LogStore(self.url)
        for number in count(self.first, self.size):
            if self.stop.wait(self.every_s):
                break
            batch = [_now(number + n) for n in range(self.size)]
            self.took_s.append(_seconds(lambda batch=batch: log.record(batch, NOW)))
        log.close()

    def told(self) -> dict[str, float]:
        """Return the figures."""
        cuts = statistics.quantiles(self.took_s, n=100) if len(self.took_s) > 1 else [0.0] * 99
        return {
            "commits": len(self.took_s),
            "rows": len(self.took_s) * self.size,
            "p50_ms": round(cuts[49] * 1e3, 2),
            "p99_ms": round(cuts[98] * 1e3, 2),
            "max_ms": round(max(self.took_s, default=0.0) * 1e3, 2),
            "over_100_ms": sum(took_s > LONGEST_S for took_s in self.took_s),
        }


def _now(number: int) -> Any:
    """Return a detection of some station, now."""
    at = NOW + number * 10_000
    return replace(
        detection(1),
        event_id=str(UUID(int=(at // 1000 << 80) | (7 << 76) | (2 << 62) | number)),
        station=large_log.STATIONS[number % large_log.N_STATIONS],
        sequence=10_000_000 + number,
        started_at=at,
        ended_at=at + 3_000_000,
        scientific_name=large_log.SCIENTIFIC[number % 40],
        common_name=large_log.COMMON[number % 40],
        probability=0.43 + (number * 7_919 % 570) / 1_000,
        embedding=None,
    )


_numbers = count(0, 10_000_000)
PACES = {"one row each 10 ms": (1, 0.01), "20 rows each 10 ms": (20, 0.01)}


@contextmanager
def committing(url: str, size: int, every_s: float) -> Iterator[Commits]:
    """Write inside the block."""
    commits = Commits(url, next(_numbers), size, every_s)
    commits.start()
    yield commits
    commits.stop.set()
    commits.join()


READER = """
import os, sys
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # where the writer has precedence
sys.path.insert(0, ".")
from bench.scale import QUESTIONS, _ask
from fieldstation.store.images import Images
from fieldstation.store.jobs import Jobs
from fieldstation.store.log_db import LogStore
log = LogStore(sys.argv[1], readonly=True)
while True:
    _ask(log, "SELECT count(*), avg(probability) FROM detections WHERE place = 'none'")
    for question in QUESTIONS.values():
        question(log)
"""


@contextmanager
def readers(url: str, n: int) -> Iterator[None]:
    """Let processes read inside the block: the whole table, and every question."""
    command = [sys.executable, "-c", READER, url]
    processes = [subprocess.Popen(command) for _ in range(n)]
    try:
        time.sleep(3.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def stalls(url: str, beside: Callable[[], object]) -> dict[str, Any]:
    """Return how long commits took while something else went on, at each pace."""
    found: dict[str, Any] = {}
    for name, (size, every_s) in PACES.items():
        with committing(url, size, every_s) as commits:
            took_s = _seconds(beside)
        found[name] = {"beside_s": round(took_s, 1), **commits.told()}
        print(f"    {name}: {found[name]}")
    return found


def time_writing(url: str, folder: Path) -> dict[str, Any]:
    """Return how long commits take, alone and beside what else touches a log."""
    path = file_of(url)
    found: dict[str, Any] = {}

    def note(name: str, beside: Callable[[], object]) -> None:
        print(f"commits, {name}:")
        found[name] = stalls(url, beside)

    def beside_readers() -> None:
        with readers(url, N_READERS):
            time.sleep(COMMITS_S)

    note("alone", lambda: time.sleep(COMMITS_S))
    note(f"beside {N_READERS} readers", beside_readers)
    if path is not None:
        note("beside a backup", lambda: back_up(path, folder / "backups", 1))
        note("beside a look for damage", lambda: find_damage(path))
    note("beside retention", lambda: _forget(url))
    return found


def _forget(url: str) -> None:
    """Let the oldest days go for as long as the others take."""
    log = LogStore(url)
    ends_at = time.monotonic() + COMMITS_S
    before = parse_instant(f"{FIRST_DAY}T00:00Z") + N_DAYS * DAY_US // 2
    n = forget(log.database, before, lambda: bool(time.sleep(0.05)) or time.monotonic() < ends_at)
    print(f"    {n} detections left the log")
    log.close()


def is_consistent(log: LogStore) -> bool:
    """Return whether the roll-up counts the rows that there are."""
    with log.database.read() as connection:
        n = connection.execute(text("SELECT count(*) FROM detections")).scalar()
        return bool(n == connection.execute(select(func.sum(DAILY.c.n))).scalar())


def sizes(log: LogStore, url: str) -> dict[str, Any]:
    """Return how much there is."""
    path = file_of(url)
    found: dict[str, Any] = {}
    with log.database.read() as connection:
        for table in ("detections", "daily", "totals", "everywhere", "coverage"):
            found[table] = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar()
        if path is None:
            sql = "SELECT pg_database_size(current_database())"
            found["bytes"] = connection.execute(text(sql)).scalar()
    if path is not None:
        found["bytes"] = path.stat().st_size
    return found


def main() -> None:
    """Make the log where it is missing; measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--database", help="SQLite file or url; default: a temporary file")
    parser.add_argument("--only", choices=("questions", "writing"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        url = arguments.database or f"{name}/log.db"
        described = measure(url, Path(name), arguments.rows, arguments.only)
    kind = "sqlite" if file_of(url) else "postgresql"
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[kind] = results.get(kind, {}) | described
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure(url: str, folder: Path, rows: int, only: str | None) -> dict[str, Any]:
    """Run everything once."""
    log = LogStore(url)
    described: dict[str, Any] = {
        "command": "python -m bench.scale" + ("" if file_of(url) else " --database URL"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": importlib.metadata.version("sqlalchemy"),
        "date": f"{date.today()}",
        "load_before": round(os.getloadavg()[0], 1),
        "has_precedence": os.sched_getscheduler(0) != os.SCHED_OTHER,
    }
    if not list(query.detections(log, Filter(limit=1))):
        log.close()
        described["make_s"] = round(_seconds(lambda: large_log.make(url, rows)))
        log = LogStore(url)
        if file_of(url) is None:
            with log.database.engine.connect() as connection:
                connection.execute(text("ANALYZE"))
                connection.commit()
    described["size"] = sizes(log, url)
    print(json.dumps(described, indent=1))
    if only != "writing":
        described["questions"] = time_questions(log, QUESTIONS | documented())
        described["beyond"] = time_questions(log, BEYOND)
        slow = [n for n, t in described["questions"].items() if t["median_ms"] > PROMISED_MS]
        print(f"over {PROMISED_MS:g} ms: {slow or 'none'}")
    if only != "questions":
        described["writing"] = time_writing(url, folder)
        described["roll_up_counts_the_rows"] = is_consistent(log)
    log.close()
    return described | {"load_after": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    main()
