"""A planted secret is looked for in all that a command says, shows in `ps`, and leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fieldstation.bundle import Bundle
from fieldstation.cli import main
from fieldstation.commands.check import Mend, check_secrets
from fieldstation.commands.context import Context
from fieldstation.config import MqttSettings, Settings
from fieldstation.state import State
from tests.commands.conftest import needs_mosquitto
from tests.mqtt.fakes import until
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

SECRET = "pl4nted-s3cret"


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """Return a file that holds the secret."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    return path


def fieldstation(command: str, settings: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with these settings, and see that it never shows the secret."""
    (folder / "settings.toml").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-m", "fieldstation", command,
         "--config", str(folder / "settings.toml"), "--state", str(folder / "state")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert SECRET not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("log --broker mqtt://user:{0}@127.0.0.1", ""),
        ("log --database postgresql://user:{0}@127.0.0.1/birds", ""),
        ("detections --database postgresql://user:{0}@/birds?x=1", ""),
        ("detections --database postgresql:///birds?password={0}", ""),
        ("watch --broker mqtt://user:{0}@127.0.0.1:port", ""),
        ("watch --broker mqtt://user:a/{0}@127.0.0.1", ""),
        ("watch --broker mqtt://127.0.0.1 --password-file {0}", ""),
        ("log --broker http://user:{0}@127.0.0.1", ""),
        ("status --broker user:{0}@127.0.0.1", ""),
        ("check", '[mqtt]\nurl = "mqtt://user:{0}@127.0.0.1"'),
        ("check", '[mqtt]\npassword = "{0}"'),
        ("check", '[log]\ndatabase = "postgresql://user:{0}@h/n"'),
        ("check", '[log]\npassword_file = "{0}"'),
        ("check", '[mqtt]\nurl = "{0}'),
    ],
)
def test_a_password_where_none_belongs_is_refused_unseen(
    command: str, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is a mistake that people make; exit 2 names the setting and the mend."""
    path = tmp_path / "settings.toml"
    path.write_text(settings.format(SECRET))
    where = ["--config", str(path), "--state", str(tmp_path / "state")]
    assert main([*command.format(SECRET).split(), *where]) == 2
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    assert len(said.err.splitlines()) <= 2


@pytest.mark.parametrize("name", ["FIELDSTATION_MQTT_PASSWD", "FIELDSTATION_LOG_PASSWORD"])
def test_a_misspelt_variable_is_named_without_its_value(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may be the password."""
    monkeypatch.setenv(name, SECRET)
    assert main(["check", "--state", str(tmp_path / "state")]) == 2
    said = capfd.readouterr()
    assert name in said.err
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("key", ["password_file", "key_file"])
def test_a_file_that_everybody_may_read_is_told(key: str, password: Path, tmp_path: Path) -> None:
    """`check` names it with the mend; readable by the group is as it should be."""
    names: dict[str, Any] = {key: str(password)}
    context = Context(Settings(mqtt=MqttSettings(**names)), State(tmp_path), None)
    password.chmod(0o640)
    assert check_secrets(context) == "1 with passwords or keys, none for everybody to read"
    password.chmod(0o644)
    with pytest.raises(Mend, match="password can be read by everybody: chmod o-rwx"):
        check_secrets(context)


@needs_mosquitto
@pytest.mark.parametrize(
    "settings",
    [
        '[log]\ndatabase = "postgresql://user@127.0.0.1:9/birds"\npassword_file = "password"\n',
        '[mqtt]\nurl = "mqtt://user@127.0.0.1:9"\npassword_file = "password"\n',
    ],
    ids=["database", "broker"],
)
def test_a_running_station_shows_its_passwords_to_nobody(
    settings: str, tones: Bundle, password: Path, tmp_path: Path
) -> None:
    """While what they open is away: its output, `ps`, its children, and all that it writes."""
    path, said = tmp_path / "settings.toml", tmp_path / "said"
    path.write_text(settings)
    command = [sys.executable, "-m", "fieldstation", "run", "--source", "-",
               "--bundle", tones.path, "--config", path, "--state", tmp_path / "state"]  # fmt: skip
    with said.open("wb") as output:
        station = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=tmp_path
        )
    until(lambda: b"trying again" in said.read_bytes(), 40)
    lines = list(command_lines(station.pid))
    station.communicate(timeout=30)
    assert "fieldstation" in lines[0]
    left = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(left) > 2
    for text in (said.read_text(), *lines, *(path.read_bytes().decode("latin-1") for path in left)):
        assert SECRET not in text


def command_lines(pid: int) -> Iterator[str]:
    """Yield what `ps` shows of a process, and what its children can see of its environment."""
    yield Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(ProcessLookupError, FileNotFoundError):  # a child may end while it is read
            yield from command_lines(int(child))
            yield Path(f"/proc/{child}/environ").read_bytes().decode()


def is_refused(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return True
    return False


def test_a_database_s_password_comes_from_its_file(
    postgres_url: str, password: Path, tmp_path: Path
) -> None:
    """A server that asks for it lets us in with the file, and without says what to mend."""
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{SECRET}'")
        (rules,) = server.execute("SHOW hba_file").fetchone() or ("",)
        text = Path(rules).read_text()
        Path(rules).write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{text}")
        server.execute("SELECT pg_reload_conf()")
        url = postgres_url.replace("fieldstation@", "guarded@")
        try:
            until(lambda: is_refused(url))  # the server reads its rules when it comes to it
            wanted = f'[log]\ndatabase = "{url}"\n'
            without = fieldstation("species", wanted, tmp_path)
            assert without.returncode == 1
            assert "check that the server runs, the url and the password" in without.stderr
            wanted += f'password_file = "{password}"\n'
            opened = fieldstation("species", wanted, tmp_path)
            assert opened.returncode == 2
            assert "has tables of version 0" in opened.stderr
        finally:
            Path(rules).write_text(text)
            server.execute("SELECT pg_reload_conf()")
            server.execute("DROP ROLE guarded")
