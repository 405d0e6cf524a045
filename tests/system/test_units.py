"""The worker's unit: nothing in it that systemd does not know, and a sandbox like the station's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import guest

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)

UNITS = guest.CLONE / "systemd"
WORKER, STATION = UNITS / "fieldstation-worker.service", UNITS / "fieldstation.service"
INSTALLED = "/opt/fieldstation/.venv/bin/fieldstation"


def keys(unit: Path) -> dict[str, list[str]]:
    """Return a unit's settings of [Service]."""
    found: dict[str, list[str]] = {}
    service = unit.read_text("utf-8").partition("[Service]")[2].partition("[Install]")[0]
    for line in service.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_worker_s_unit_has_no_key_that_systemd_does_not_know(tmp_path: Path) -> None:
    """`systemd-analyze verify` exits 0 on unknown keys, but it speaks of them."""
    unit = tmp_path / WORKER.name
    unit.write_text(WORKER.read_text("utf-8").replace(INSTALLED, sys.executable), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_worker_is_shut_in_like_the_station() -> None:
    """What the station's unit forbids, the worker's forbids too; sound is not for it."""
    station, worker = keys(STATION), keys(WORKER)
    forbidden = {
        n: v for n, v in station.items() if n.startswith(("Protect", "Private", "Restrict"))
    }
    assert {name: worker.get(name) for name in forbidden} == forbidden
    assert "SupplementaryGroups" not in worker
    assert worker["OOMPolicy"] == ["stop"]
    assert worker["Nice"] == ["19"]
