"""deploy/mosquitto/users.sh: who is in, with what password, and that nobody else reads it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tomllib
from copy import copy
from pathlib import Path

import pytest

from fieldstation import config
from fieldstation.mqtt.messages import topic_level
from tests.deploy.hub import DEPLOY, Hub, needs_hub, script

pytestmark = needs_hub


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """A hub with no users, which refusals leave so; its broker does not run."""
    return Hub(tmp_path_factory.mktemp("empty") / "hub")


@pytest.fixture
def hub(empty: Hub, tmp_path: Path) -> Hub:
    """A copy of it."""
    found = copy(empty)
    found.folder = Path(shutil.copytree(empty.folder, tmp_path / "hub"))
    return found


def test_a_station_s_folder_holds_all_it_needs(hub: Hub) -> None:
    """Its settings are read without complaint and name the hub, its user and where secrets go."""
    hub.add("station", "hedge")
    folder = hub.folder / "out" / "hedge"
    assert {p.name for p in folder.iterdir()} == {"password", "ca.crt", "fieldstation.toml"}
    settings = config.load(folder / "fieldstation.toml", {})
    assert settings.station.name == settings.mqtt.username == "hedge"
    assert settings.mqtt.url == f"mqtts://localhost:{hub.port}"
    assert not settings.log.enabled
    assert Path(settings.mqtt.password_file).name == "password"
    assert hub.password_of("hedge") not in (folder / "fieldstation.toml").read_text()


@pytest.fixture(scope="module")
def with_hedge(empty: Hub, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """A hub with one station, which refusals leave so."""
    found = copy(empty)
    found.folder = Path(shutil.copytree(empty.folder, tmp_path_factory.mktemp("one") / "hub"))
    found.add("station", "hedge")
    return found


def test_the_url_is_the_certificate_s_first_name(hub: Hub) -> None:
    """Where nobody says another."""
    done = script("mosquitto/users.sh", "add-reader", "anna", FIELDSTATION_HUB=str(hub.folder))
    assert done.returncode == 0, done.stderr
    told = tomllib.loads((hub.folder / "out" / "anna" / "fieldstation.toml").read_text())
    assert told["mqtt"]["url"] == "mqtts://hub.example:8883"
    assert "station" not in told


def test_nobody_else_can_read_what_is_secret(hub: Hub) -> None:
    """Whatever the caller's umask was."""
    hub.add("station", "hedge")
    secret = [hub.folder / "users", hub.folder / "access", *(hub.folder / "out").rglob("*")]
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secret)


def test_the_password_is_on_no_command_line_and_in_no_output(hub: Hub, tmp_path: Path) -> None:
    """Every program that the script starts is asked what it was started with."""
    tools, told = tmp_path / "tools", tmp_path / "told"
    tools.mkdir()
    for name in ("openssl", "mosquitto_passwd", "awk", "cat", "cp", "mv", "sync", "mkdir", "grep"):
        wrapper = tools / name
        wrapper.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >>{told}\n'
            f'PATH="${{PATH#*:}}:/usr/sbin" exec {name} "$@"\n'
        )
        wrapper.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    done = script("mosquitto/users.sh", "add-station", "hedge",
                  FIELDSTATION_HUB=str(hub.folder), PATH=path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    password = hub.password_of("hedge")
    assert "mosquitto_passwd -U" in told.read_text()
    for text in (told.read_text(), done.stdout, done.stderr, (hub.folder / "users").read_text()):
        assert password not in text


def test_a_new_password_ends_the_old_one_and_no_other(hub: Hub) -> None:
    """`renew` changes one line."""
    hub.add("station", "hedge")
    hub.add("station", "wood")
    old, before = hub.password_of("hedge"), (hub.folder / "users").read_text().splitlines()
    assert hub.users("renew", "hedge").returncode == 0
    after = (hub.folder / "users").read_text().splitlines()
    assert hub.password_of("hedge") != old
    assert {line.split(":")[0] for line in set(before) ^ set(after)} == {"hedge"}
    assert len(after) == 2


def test_a_revoked_user_is_in_no_list(hub: Hub) -> None:
    """Nor is the folder with its password left."""
    hub.add("station", "hedge")
    hub.add("reader", "anna")
    assert hub.users("revoke", "hedge").returncode == 0
    assert hub.users("list").stdout == "anna reader\n"
    for name in ("users", "access", "roles"):
        assert "hedge" not in (hub.folder / name).read_text()
    assert not (hub.folder / "out" / "hedge").exists()


@pytest.mark.parametrize(
    "name", ["a/b", "+", "#", "a b", "", "..", "../x", "x:y", "-x", "x-", "ä" * 33, "a\nuser b"]
)
def test_what_is_no_name_is_refused(empty: Hub, name: str) -> None:
    """No wildcard, level or line of its own gets into the access list."""
    done = empty.users("add-station", name)
    assert done.returncode == 1
    assert "is no name" in done.stderr
    assert (empty.folder / "roles").read_text() == ""


@pytest.mark.parametrize("name", ["hedge", "Süd.wiese_2", "a", "x" * 63])
def test_a_user_s_name_is_the_level_of_its_topics(hub: Hub, name: str) -> None:
    """The access list guards what the station of this name writes to."""
    hub.add("station", name)
    assert f"fieldstation/{topic_level(name)}/#" in (hub.folder / "access").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add-station", "hedge"), "there is a user hedge already"),
        (("revoke", "wood"), "there is no user wood"),
        (("renew", "wood"), "there is no user wood"),
        (("add-king", "wood"), "usage"),
        ((), "usage"),
    ],
)
def test_what_cannot_be_done_is_said(
    with_hedge: Hub, arguments: tuple[str, ...], said: str
) -> None:
    """And nothing is changed."""
    before = (with_hedge.folder / "users").read_text()
    done = with_hedge.users(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert (with_hedge.folder / "users").read_text() == before


def test_users_added_at_once_are_all_there(hub: Hub) -> None:
    """One waits for the other."""
    names = ["a", "b", "c", "d"]
    environment = {**os.environ, "FIELDSTATION_HUB": str(hub.folder)}
    command = ["bash", str(DEPLOY / "mosquitto/users.sh"), "add-station"]
    running = [
        subprocess.Popen([*command, name], env=environment, stderr=subprocess.DEVNULL)
        for name in names
    ]
    assert [process.wait(100) for process in running] == [0] * 4
    assert hub.users("list").stdout == "".join(f"{name} station\n" for name in names)
    access = (hub.folder / "access").read_text().splitlines()
    assert [line for line in access if line.startswith("user ")] == [f"user {n}" for n in names]
    hashes = (hub.folder / "users").read_text().splitlines()
    assert sorted(line.split(":")[0] for line in hashes) == names
