"""A second machine for a test: this one's files with a real systemd booted on them.

The root file system is an overlay of `/` whose changes live in memory, the machine is
systemd-nspawn's. Everything runs below one process in a mount and a process namespace of its
own that dies with the test's process, even by SIGKILL; with it go every mount and every process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CLONE = Path(__file__).parents[2]
TOOLS = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "mount")
PATIENCE_S = 90.0

# Only what the clone installs is enabled in the guest: no *.wants of the machine it copies.
BOOT = r"""
set -eu
mount -t tmpfs -o size=2g,mode=755 fieldstation-test "$AREA"
mkdir "$AREA/upper" "$AREA/work" "$AREA/root"
mount -t overlay -o "lowerdir=/,upperdir=$AREA/upper,workdir=$AREA/work" overlay "$AREA/root"
root=$AREA/root
echo mounted
rm -rf "$root"/etc/systemd/system/*.wants "$root/etc/systemd/system/fieldstation.service" \
    "$root/opt/fieldstation" "$root/etc/fieldstation" "$root/var/lib/fieldstation" \
    "$root/etc/mosquitto/fieldstation" "$root/etc/mosquitto/conf.d/fieldstation.conf"
: >"$root/etc/machine-id"
nspawn() {
    systemd-nspawn --quiet --register=no --keep-unit --link-journal=no --resolv-conf=off \
        --console=pipe --directory="$root" --bind-ro="$CLONE:/clone" "$@"
}
# shellcheck disable=SC2086
nspawn $SETENV sh -c \
    "bash /clone/deploy/install-service.sh && bash /clone/deploy/install-hub.sh hub.example"
echo installed
nspawn --private-network --boot
"""


class NoGuest(RuntimeError):
    """This machine cannot run one; the text says why."""


class Guest:
    """The booted machine, driven from outside by entering its namespaces."""

    def __init__(self, init: int) -> None:
        """Take the guest whose systemd is process `init` here."""
        self._init = init

    def run(self, *command: str, check: bool = True) -> str:
        """Return what a command prints inside, both streams.

        Raises:
            AssertionError: it failed, with what it printed; not if `check` is False.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "-m", "-u", "-i", "-n", "-p", "-C", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL": "C.UTF-8"},
            text=True,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def show(self, what: str, unit: str = "fieldstation.service") -> str:
        """Return one property of a unit."""
        return self.run("systemctl", "show", "--property", what, "--value", unit).strip()

    def journal(self) -> str:
        """Return what the station and systemd said about it."""
        return self.run("journalctl", "-u", "fieldstation", "--no-pager", "-o", "short-iso")

    def write(self, path: str, text: str) -> None:
        """Write a file inside, with its folders."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("sh", "-c", 'printf %s "$1" >"$2"', "sh", text, path)

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: it did not become so; with the journal.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, f"never {what}:\n{self.journal()}"
            time.sleep(0.2)


def why_not() -> str | None:
    """Return why this machine cannot run a guest, or None."""
    if os.geteuid() != 0:
        return "needs root to boot a systemd"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(lacking)} (package systemd-container)"
    return None


@contextmanager
def booted(area: Path) -> Iterator[Guest]:
    """Install the station with deploy/install-service.sh on a copy of this machine and boot it.

    Args:
        area: an empty folder to mount on, and `console` beside it for what was printed.

    Raises:
        NoGuest: mounting is refused here.
        AssertionError: the installation failed, or systemd did not come up.
    """
    console = area.parent / "console"
    area.mkdir()
    with console.open("wb") as output:
        holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private",
             "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", BOOT],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AREA": str(area), "CLONE": str(CLONE),
                 "SETENV": _pip_settings(os.environ)},
        )  # fmt: skip
    try:
        yield Guest(_wait_for_systemd(holder, console))
    finally:
        holder.kill()
        holder.wait()


def _pip_settings(environ: Mapping[str, str]) -> str:
    """Return what tells pip inside where packages come from, as nspawn's options."""
    told = [name for name in environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]
    return " ".join(f"--setenv={name}" for name in told)


def _wait_for_systemd(holder: subprocess.Popen[bytes], console: Path) -> int:
    """Return systemd's process once its boot is complete."""
    deadline = time.monotonic() + 5 * PATIENCE_S  # two installations
    while time.monotonic() < deadline:
        said = console.read_text(errors="replace")
        if holder.poll() is not None and "mounted" not in said:
            raise NoGuest(f"this machine lets nobody mount: {said.strip()}")
        assert holder.poll() is None, f"no guest came up:\n{said}"
        if "installed" in said and (init := _systemd_below(holder.pid)):
            state = Guest(init).run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return init
        time.sleep(0.3)
    raise AssertionError(f"the guest did not finish booting:\n{console.read_text('utf-8')}")


def _systemd_below(pid: int) -> int | None:
    """Return the process named systemd among a process's descendants, or None."""
    for child in _children(pid):
        try:
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return child
        except OSError:
            continue
        if found := _systemd_below(child):
            return found
    return None


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
