"""Reading a SQLite file page by page, held against SQLite itself."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldstation.store.salvage import Row, rows

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
    st.binary(max_size=50),
    st.integers(0, 12_000).map(lambda n: random.Random(n).randbytes(n)),
)


def make(path: Path, table: list[tuple[object, ...]], page_size: int, wal: bool) -> None:
    """Write a table; in WAL mode half of it stays in the -wal, as after a kill."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute("PRAGMA synchronous = OFF")
        if wal:
            database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE things (a, b, c)")
        half = len(table) // 2
        insert(database, table[:half])
        if wal:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        insert(database, table[half:])
        database.execute("DELETE FROM things WHERE rowid % 5 = 0")
        for part in (path, path.with_name(path.name + "-wal")):
            if part.exists():  # copied while it is open: closing takes the -wal in
                killed = part.with_name("killed-" + part.name)
                killed.write_bytes(part.read_bytes())


def insert(database: sqlite3.Connection, table: list[tuple[object, ...]]) -> None:
    database.execute("BEGIN")
    database.executemany("INSERT INTO things VALUES (?, ?, ?)", table)
    database.execute("COMMIT")


def found(path: Path) -> set[Row]:
    return {row for row in rows(path) if len(row.values) == 3}


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=40),
    page_size=st.sampled_from([512, 1_024, 4_096, 65_536]),
    wal=st.booleans(),
)
def test_a_whole_file_is_read_as_sqlite_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[object, ...]],
    page_size: int,
    wal: bool,
) -> None:
    """Every type, rows over many pages, deleted rows, half of it in the -wal."""
    path = tmp_path_factory.mktemp("salvage") / "things.db"
    make(path, table, page_size, wal)
    killed = path.with_name("killed-things.db")
    mine = found(killed)
    with closing(sqlite3.connect(killed)) as database:
        theirs = {Row(n, tuple(v)) for n, *v in database.execute("SELECT rowid, * FROM things")}
    assert {repr(row) for row in mine} == {repr(row) for row in theirs}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lost_pages_cost_their_own_rows_only(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Whichever three pages are overwritten, the first one and inner ones too."""
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("salvage") / "things.db"
    table = [(n, f"text {n}", chance.randbytes(chance.randrange(300))) for n in range(300)]
    make(path, table, 1_024, wal=False)
    killed = path.with_name("killed-things.db")
    whole = found(killed)
    damaged = bytearray(killed.read_bytes())
    for page in chance.sample(range(len(damaged) // 1_024), 3):
        damaged[page * 1_024 : (page + 1) * 1_024] = chance.randbytes(1_024)
    if damaged[:16] != b"SQLite format 3\0":  # its size of pages is told nowhere else
        damaged[:100] = killed.read_bytes()[:100]
    killed.write_bytes(damaged)
    left = found(killed)
    assert left <= whole
    assert len(left) >= len(whole) - 3 * 1_024 // 15


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """A length, a pointer or a type that was hit leads nowhere, and ends."""
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("salvage") / "things.db"
    make(path, [(n, "x" * n, bytes(2_000)) for n in range(20)], 512, wal=True)
    for name in ("killed-things.db", "killed-things.db-wal"):
        file = path.with_name(name)
        content = bytearray(file.read_bytes())
        for _ in range(20):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content)
    list(rows(path.with_name("killed-things.db")))


def test_no_file_and_no_database_give_no_rows(tmp_path: Path) -> None:
    """Empty, missing, text, and a header with nothing behind it."""
    for name, content in (("empty", b""), ("text", b"no database" * 999)):
        (tmp_path / name).write_bytes(content)
        assert list(rows(tmp_path / name)) == []
    assert list(rows(tmp_path / "missing")) == []
    (tmp_path / "header").write_bytes(b"SQLite format 3\0" + b"\xff" * 84)
    assert list(rows(tmp_path / "header")) == []
