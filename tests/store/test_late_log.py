"""A log that comes later than the station, or is taken away under it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fieldstation.store.errors import StoreUnavailable
from fieldstation.store.late_log import LateLog
from tests.store.examples import detection


def n_rows(path: Path) -> int:
    """Return how many detections somebody else finds in a file."""
    with closing(sqlite3.connect(path)) as log:
        found: int = log.execute("SELECT count(*) FROM detections").fetchone()[0]
        return found


def test_rows_never_go_into_a_file_that_was_removed(tmp_path: Path) -> None:
    """After `rm log.db` the next row makes a new log, as a restart would."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}")
    log.record([detection(1)], 0)
    for file in tmp_path.iterdir():
        file.unlink()
    log.record([detection(2)], 0)
    assert n_rows(path) == 1
    log.close()


def test_a_log_removed_while_it_is_written_confirms_nothing(tmp_path: Path) -> None:
    """The rows are written again, to where they can be found."""
    path = tmp_path / "log.db"
    log = LateLog(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable, match=r"log\.db was removed"), log._kept():
        path.rename(tmp_path / "taken.db")
    log.record([detection(1)], 0)
    assert n_rows(path) == 1
    log.close()
