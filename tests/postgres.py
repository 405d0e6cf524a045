"""A real PostgreSQL server of the tests' own, on a free loopback port, gone after them.

Use: `from tests.postgres import postgres_server, postgres_url` in a conftest, then ask for the
fixture `postgres_url`: each test gets an empty database.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER_USER = "postgres"
"""Who runs the server where the tests run as root, which PostgreSQL refuses to be run by"""
START_S = 30.0


def find_programs() -> Path | None:
    """Return the folder of the newest PostgreSQL server's programs, or None."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((p.parent for p in found), key=lambda p: float(p.parent.name), default=None)


@contextmanager
def run_server(programs: Path, fsync: str = "off") -> Iterator[str]:
    """Start a server with an empty cluster; give the url of its first database.

    Args:
        fsync: "off", as tests ask what is committed, not what a power cut leaves; or "on".
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="fieldstation-postgres-"))
    user = SERVER_USER if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": fsync,
    }
    initdb = ("initdb", "--auth=trust", "--username=fieldstation", "--no-sync", "--encoding=UTF8")
    with (folder / "log").open("wb") as log:
        subprocess.run(
            [programs / initdb[0], *initdb[1:], folder / "cluster"],
            stdout=log,
            stderr=log,
            user=user,
            cwd="/",
            check=True,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "cluster", "-p", str(port)]
            + [f"-c{name}={value}" for name, value in options.items()],
            stdout=log,
            stderr=log,
            user=user,
            cwd="/",
        )
    try:
        _wait_until_ready(server, port, folder / "log")
        yield f"postgresql://fieldstation@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(START_S)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The url of a running server; skips where PostgreSQL or its driver is missing."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[postgres]'")
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    if os.geteuid() == 0 and SERVER_USER not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {SERVER_USER}")
    with run_server(programs) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The url of an empty database; it is emptied again after the test, whoever still looks."""
    yield postgres_server
    import psycopg

    cut_clients(postgres_server)
    # Dropping a schema is ten times faster than making a database for each test.
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute("DROP SCHEMA public CASCADE")
        server.execute("CREATE SCHEMA public")


def cut_clients(url: str) -> int:
    """Cut all connections to a database; return how many there were when they are gone."""
    import psycopg

    clients = (
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    with psycopg.connect(url, autocommit=True) as server:
        n = len(server.execute(f"SELECT pg_terminate_backend(pid){clients}").fetchall())
        deadline = time.monotonic() + START_S
        while server.execute(f"SELECT 1{clients}").fetchall():
            assert time.monotonic() < deadline, "a connection that was cut stays"
            time.sleep(0.01)
    return n


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_S
    url = f"postgresql://fieldstation@127.0.0.1:{port}/postgres"
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
