"""deploy/start.sh on a clone of its own: a package that builds in a moment and prints its words.

No registry is asked: the little package has no requirements and brings its own build backend.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "fieldstation"
version = "1.0"
"""

BACKEND = '''
"""Builds a wheel whose command prints its arguments; breaks off where a file says so."""
import os, zipfile

DATA = "fieldstation-1.0.dist-info"
FILES = {
    "fieldstation_words.py": "import sys\\n\\ndef main():\\n    print(*sys.argv[1:])\\n",
    f"{DATA}/METADATA": "Metadata-Version: 2.1\\nName: fieldstation\\nVersion: 1.0\\n"
    "Provides-Extra: cpu\\n",
    f"{DATA}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{DATA}/entry_points.txt": "[console_scripts]\\nfieldstation = fieldstation_words:main\\n",
    f"{DATA}/RECORD": "",
}

def build_editable(folder, settings=None, metadata=None):
    if os.path.exists("break"):
        raise SystemExit("the network broke")
    name = "fieldstation-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name

build_wheel = build_editable
'''

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]


def make_clone(folder: Path) -> Path:
    """Make a folder that start.sh takes for the clone it is in."""
    shutil.copytree(DEPLOY, folder / "deploy")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which nothing was started yet."""
    return make_clone(tmp_path / "a clone")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that was started once."""
    folder = make_clone(tmp_path_factory.mktemp("started") / "a clone")
    first = start(folder, "--demo", "--speed", "max")
    assert (first.returncode, first.stdout) == (0, "run --demo --speed max\n"), first.stderr
    assert installs(first)
    return folder


def start(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run start.sh as a user who may not install system packages."""
    # Without apt-get in sight nothing outside the clone can change.
    tools = clone.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        for name in ("bash", "cat", "dirname", "grep", "id", "ls", "mkdir", "python3", "realpath",
                     "rm", "sha256sum", "touch", "dpkg-query"):  # fmt: skip
            if found := shutil.which(name, path="/usr/bin:/bin"):
                (tools / name).symlink_to(found)
    return subprocess.run(
        ["bash", str(clone / "deploy" / "start.sh"), *arguments],
        env={"PATH": str(tools), "HOME": str(clone.parent), "PIP_NO_INDEX": "1", **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def installs(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a run says that it installed the package."""
    return "installing fieldstation[cpu]" in done.stderr


def test_the_next_start_only_starts(started: Path) -> None:
    """Arguments reach `fieldstation run`; what is there is not installed again."""
    second = start(started, "--device", "USB microphone")
    assert (second.returncode, second.stdout) == (0, "run --device USB microphone\n")
    assert not installs(second)


def test_changed_requirements_are_installed(started: Path) -> None:
    """After an update that touches pyproject.toml, the next start installs once."""
    (started / "pyproject.toml").write_text(PROJECT + 'description = "newer"\n')
    assert [installs(start(started)), installs(start(started))] == [True, False]


def test_a_clone_that_moved_still_starts(started: Path, tmp_path: Path) -> None:
    """A virtual environment holds its path: moved along, it is made again."""
    moved = shutil.copytree(started, tmp_path / "moved", symlinks=True)
    done = start(moved)
    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr


def test_an_interrupted_installation_is_made_afresh(clone: Path) -> None:
    """A network that breaks is an error with a mend; the next start needs nothing removed."""
    (clone / "break").touch()
    broken = start(clone)
    assert broken.returncode == 1
    assert "run this again" in broken.stderr.splitlines()[-1]
    assert broken.stdout == ""
    (clone / "break").unlink()
    mended = start(clone, "--demo")
    assert (mended.returncode, mended.stdout) == (0, "run --demo\n"), mended.stderr


def test_a_folder_of_other_things_is_left_alone(clone: Path) -> None:
    """FIELDSTATION_VENV pointing at somebody's files is an error, and they stay."""
    letters = clone.parent / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("Dear")
    done = start(clone, FIELDSTATION_VENV=str(letters))
    assert done.returncode == 1
    assert "set FIELDSTATION_VENV" in done.stderr
    assert [path.name for path in letters.iterdir()] == ["dear.txt"]


def test_an_old_python_is_named(clone: Path) -> None:
    """Where no Python will do, the one that is there is named."""
    tools = clone.parent / "tools"
    start(clone, FIELDSTATION_VENV="/dev/null/nowhere")
    (tools / "python3").unlink()
    old = "#!/bin/sh\ncase $1 in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac\n"
    (tools / "python3").write_text(old)
    os.chmod(tools / "python3", 0o755)
    done = start(clone)
    assert done.returncode == 1
    assert "3.9.2" in done.stderr
