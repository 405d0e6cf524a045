"""deploy/requirements.lock: every package of an installed service, exactly, and only those."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
RENEW = "run: bash deploy/renew-requirements.sh"


def pinned() -> dict[str, list[Version]]:
    """Return the versions of each package in the lock, of which one fits a given machine."""
    text = (ROOT / "deploy" / "requirements.lock").read_text("utf-8")
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9-]+)(?:\[.*?\])?==([^\s;\\]+)", text):
        found.setdefault(name, []).append(Version(version))
    return found


def wanted() -> list[Requirement]:
    """Return what pyproject.toml asks for on a station and on a hub, and to build our wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [*project["project"]["dependencies"], *extras["cpu"], *extras["postgres"]]
    return [Requirement(line) for line in (*lines, *project["build-system"]["requires"])]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda r: r.name)
def test_the_lock_has_a_version_that_fits(requirement: Requirement) -> None:
    """Else the installed service would lack it, or run with another."""
    versions = pinned().get(requirement.name.lower(), [])
    assert versions, f"{requirement.name} is not in the lock: {RENEW}"
    assert any(requirement.specifier.contains(v) for v in versions), RENEW


def test_every_package_is_pinned_with_hashes() -> None:
    """pip then installs nothing that somebody put in its place."""
    blocks = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / "deploy/requirements.lock").read_text("utf-8"))
    packages = [block for block in blocks if block[:1].isalnum()]
    assert len(packages) > 20
    for block in packages:
        assert re.match(r"[a-z0-9-]+(\[.*?\])?==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_training_package_is_installed_in_the_field() -> None:
    """250 MB of torch are nobody's to update on a station."""
    assert not {"torch", "librosa", "scipy", "scikit-learn", "pytest"} & set(pinned())
