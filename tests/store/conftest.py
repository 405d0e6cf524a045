"""Databases for the store's tests: real files, and a real PostgreSQL where there is one."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fieldstation.store.database import file_of
from fieldstation.store.log_db import LogStore
from fieldstation.store.station_db import StationStore
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

NOBODY = 65_534
"""The user without rights, on every Linux"""


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, empty_databases: Path, clock: FakeClock) -> Iterator[StationStore]:
    """An empty station.db."""
    shutil.copy(empty_databases / "station.db", tmp_path)
    store = StationStore(tmp_path / "station.db", clock, timeout_s=0.05)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The url of an empty log, on each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def log(log_url: str, empty_databases: Path) -> Iterator[LogStore]:
    """An empty log, on each kind of database."""
    path = file_of(log_url)
    if path is not None:
        shutil.copy(empty_databases / "log.db", path)
    log = LogStore(log_url)
    yield log
    log.close()


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty station.db and log.db to copy, which is faster than to make them."""
    folder = tmp_path_factory.mktemp("empty")
    StationStore(folder / "station.db").close()
    LogStore(str(folder / "log.db")).close()
    return folder


@pytest.fixture
def fresh(empty_databases: Path) -> Callable[[str], AbstractContextManager[Path]]:
    """Gives the path of a new empty database by its name, gone after the `with`."""

    @contextmanager
    def copy(name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(empty_databases / name, folder)
            yield Path(folder) / name

    return copy


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user may look into: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Run as someone who may read in `folder` but not write."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
