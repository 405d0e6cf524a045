"""The service as a real systemd runs it: installed by our script, booted, killed, hung, misled.

The guest has no sound card and no network, which is how `--wait` is meant to start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import guest
from tests.system.guest import Guest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

UNITS = sorted((guest.CLONE / "systemd").glob("*.service"))
COMMAND = "/usr/local/bin/fieldstation"
SETTINGS = "/etc/fieldstation/fieldstation.toml"
HIGHEST_EXPOSURE = 1.5
SHORT_WATCHDOG = "[Service]\nWatchdogSec=6\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A booted machine on which the station was installed."""
    if reason := guest.why_not():
        pytest.skip(reason)
    try:
        with guest.booted(tmp_path_factory.mktemp("guest") / "area") as booted:
            yield booted
    except guest.NoGuest as refusal:
        pytest.skip(str(refusal))


@pytest.fixture
def station(machine: Guest) -> Guest:
    """The machine with the station running."""
    machine.wait("active", lambda: machine.show("ActiveState") == "active")
    return machine


def brokers(machine: Guest) -> set[str]:
    """Return the processes of every broker that a station started; the hub's has its own user."""
    return set(machine.run("pgrep", "-u", "fieldstation", "mosquitto", check=False).split())


def restarts(machine: Guest) -> int:
    """Return how often systemd restarted the station by itself."""
    return int(machine.show("NRestarts"))


def wait_for_restart(machine: Guest, before: str) -> None:
    """Wait until another process than `before` is the station, and ready."""
    machine.wait(
        "restarted",
        lambda: (
            machine.show("ActiveState") == "active" and machine.show("MainPID") not in (before, "0")
        ),
    )


def test_boot_starts_it_and_it_tells_ready(station: Guest) -> None:
    """Enabled by the installer, it is active at boot: systemd has heard READY=1 from it."""
    assert station.show("Type") == "notify"
    assert station.show("NRestarts") == "0"
    assert "fieldstation" in station.run("ps", "-o", "user=", "-p", station.show("MainPID"))


def test_the_worker_has_a_unit_of_its_own(station: Guest) -> None:
    """Started by the installer; where the bundle does not paint, it ended well."""
    unit = "fieldstation-worker.service"
    wanted = ("active", "inactive")
    station.wait("the worker looked", lambda: station.show("ActiveState", unit) in wanted)
    assert station.show("Result", unit) == "success"
    assert station.show("NRestarts", unit) == "0"
    assert station.show("Nice", unit) == "19"
    exposure = station.run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1]
    assert float(exposure.split(": ")[1].split()[0]) <= HIGHEST_EXPOSURE


def test_what_it_writes_is_its_own_and_its_groups(station: Guest) -> None:
    """The state folder belongs to the service's user; its group may read, others may not."""
    listing = station.run("stat", "-c", "%U %G %a", "/var/lib/fieldstation").strip()
    assert listing == "fieldstation fieldstation 750"
    open_to_others = station.run(
        "find", "/var/lib/fieldstation", "!", "-type", "l", "-perm", "/007"
    )
    assert open_to_others == ""


@pytest.mark.parametrize("unit", ["fieldstation.service", "fieldstation-log.service"])
def test_the_sandbox_holds_as_booted(station: Guest, unit: str) -> None:
    """systemd's own measure of the running unit's exposure stays low."""
    assert station.show("ActiveState", unit) == "active"
    last = station.run("systemd-analyze", "security", "--no-pager", unit)
    exposure = float(last.rsplit(f"{unit}:", 1)[1].split()[0])
    assert exposure <= HIGHEST_EXPOSURE


def test_a_hub_as_installed_logs_a_station_that_was_added(station: Guest) -> None:
    """What docs/hub.md tells a newcomer to do, on one machine: bird to row over TLS."""
    folder, users = "/etc/mosquitto/fieldstation", "/clone/deploy/mosquitto/users.sh"
    station.run("bash", users, "add-station", "hedge")
    settings = station.run("cat", f"{folder}/out/hedge/fieldstation.toml")
    settings = settings.replace("hub.example", "localhost")
    station.write("/hedge.toml", settings.replace("/etc/fieldstation", f"{folder}/out/hedge"))
    recording = "/clone/fieldstation/demo/CHE_01_20190101_163443.flac"
    station.run(COMMAND, "run", "--source", recording, "--config", "/hedge.toml",
                "--state", "/hedge")  # fmt: skip
    hub = ("--config", "/etc/fieldstation/hub.toml", "--format", "jsonl")
    rows = station.run(COMMAND, "detections", "--station", "hedge", *hub)
    assert '"state": "logged"' in rows


def test_the_hub_s_password_is_for_its_logger_alone(station: Guest) -> None:
    """Where it lies only root may read it; the service has it as a credential."""
    listing = station.run("stat", "-c", "%U %a", "/etc/fieldstation/hub-password").strip()
    assert listing == "root 600"
    refused = station.run(
        "setpriv", "--reuid=fieldstation", "--regid=fieldstation", "--clear-groups",
        "cat", "/etc/fieldstation/hub-password", check=False,
    )  # fmt: skip
    assert "Permission denied" in refused
    assert "connected" in station.run("journalctl", "-u", "fieldstation-log", "--no-pager")


def test_killed_it_comes_back(station: Guest) -> None:
    """After SIGKILL there is a new process, ready, with one broker that is not the old one."""
    before, old_brokers, count = station.show("MainPID"), brokers(station), restarts(station)
    station.run("kill", "-KILL", before)
    wait_for_restart(station, before)
    assert restarts(station) == count + 1
    assert len(brokers(station)) == 1
    assert not brokers(station) & old_brokers


def test_hung_it_is_restarted_and_says_where_it_hung(station: Guest) -> None:
    """A stopped process feeds no watchdog: systemd aborts it, the journal has its stack."""
    station.write("/run/systemd/system/fieldstation.service.d/watchdog.conf", SHORT_WATCHDOG)
    station.run("systemctl", "daemon-reload")
    station.run("systemctl", "restart", "fieldstation")
    before, count = station.show("MainPID"), restarts(station)
    station.run("kill", "-STOP", before)
    wait_for_restart(station, before)
    assert restarts(station) == count + 1
    journal = station.journal()
    assert "Watchdog timeout" in journal
    assert "most recent call first" in journal


def test_a_wrong_setting_stops_it_for_good(station: Guest) -> None:
    """Exit 2 is not restarted: the journal names the key, and mended it starts again."""
    kept = station.run("cat", SETTINGS)
    station.write(SETTINGS, kept + "\n[adio]\n")
    station.run("systemctl", "restart", "fieldstation", check=False)
    station.wait("failed", lambda: station.show("ActiveState") == "failed")
    assert station.show("ExecMainStatus") == "2"
    assert station.show("SubState") == "failed"
    said = station.journal()
    assert "adio" in said
    assert "Traceback" not in said.rsplit("adio", 1)[1]
    station.write(SETTINGS, kept)
    station.run("systemctl", "restart", "fieldstation")
    assert station.show("ActiveState") == "active"


def test_told_to_stop_it_ends_well(station: Guest) -> None:
    """`systemctl stop` is a clean end that takes the broker along."""
    station.run("systemctl", "stop", "fieldstation")
    assert station.show("Result") == "success"
    assert brokers(station) == set()
    station.run("systemctl", "start", "fieldstation")


def test_uninstalled_it_leaves_its_data(station: Guest) -> None:
    """Code and unit go; settings and the log stay."""
    station.run("bash", "/clone/deploy/install-service.sh", "--uninstall")
    assert station.show("LoadState") == "not-found"
    assert "fieldstation" in station.run("ls", "/opt").split()  # the hub's logger still runs it
    station.run("bash", "/clone/deploy/install-hub.sh", "--uninstall")
    assert station.show("LoadState", "fieldstation-log.service") == "not-found"
    assert "fieldstation" not in station.run("ls", "/opt", "/usr/local/bin").split()
    station.run("test", "-s", SETTINGS)
    station.run("test", "-d", "/var/lib/fieldstation")


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_no_key_that_systemd_does_not_know(path: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` exits 0 on unknown keys, but it speaks of them."""
    unit = tmp_path / path.name
    installed = "/opt/fieldstation/.venv/bin/fieldstation"
    unit.write_text(path.read_text("utf-8").replace(installed, sys.executable), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
