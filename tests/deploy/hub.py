"""A hub's broker as deploy/ sets it up: certificates, users and settings by the shipped scripts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from fieldstation.mqtt.connection import Access, BrokerUrl
from tests.mosquitto import PROGRAM, Mosquitto, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS = "/etc/mosquitto/fieldstation"

needs_hub = pytest.mark.skipif(
    PROGRAM is None or shutil.which("openssl") is None, reason="needs mosquitto and openssl"
)


def script(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of deploy/ and return what it said."""
    return subprocess.run(
        ["bash", str(DEPLOY / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        check=False,
    )


def make_certificates(folder: Path, *arguments: str) -> None:
    """Make what is missing."""
    done = script("make-certificates.sh", folder, *arguments)
    assert done.returncode == 0, done.stderr


class Hub(Mosquitto):
    """A broker with the shipped settings, on a port of its own."""

    def __init__(self, folder: Path, *names: str) -> None:
        """Make certificates for `names` and localhost; nothing is started."""
        self.folder = folder
        self.port = free_port()
        make_certificates(folder, *names or ("hub.example",))
        self.users("list")  # writes the empty lists
        self.configure()

    def configure(self, *more: tuple[str, str]) -> None:
        """Write the shipped settings with this folder, port and user, and `more` replaced."""
        text = (DEPLOY / "mosquitto" / "fieldstation.conf").read_text("utf-8")
        changes = [
            ("(?m)^listener 8883$", f"user root\nlistener {self.port} 127.0.0.1"),
            (re.escape(SETTINGS), str(self.folder)),
            *more,
        ]
        for old, new in changes:
            text, n_found = re.subn(old, new, text)
            assert n_found, f"the shipped settings have no {old}"
        (self.folder / "mosquitto.conf").write_text(text, "utf-8")
        assert PROGRAM is not None
        self._command = [PROGRAM, "-c", str(self.folder / "mosquitto.conf")]
        self._process = None

    def users(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run users.sh for this hub."""
        url = f"mqtts://localhost:{self.port}"
        return script(
            "mosquitto/users.sh",
            *arguments,
            FIELDSTATION_HUB=str(self.folder),
            FIELDSTATION_URL=url,
        )

    def add(self, role: str, name: str) -> None:
        """Add a user."""
        done = self.users(f"add-{role}", name)
        assert done.returncode == 0, done.stderr

    def reload(self) -> None:
        """Let the broker read its users again, as `systemctl reload` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def password_of(self, name: str) -> str:
        """Return the password that users.sh made."""
        return (self.folder / "out" / name / "password").read_text("ascii").strip()

    def access(self, name: str, host: str = "localhost", **changes: str) -> Access:
        """Return what opens the broker for a user."""
        fields = {"ca_file": str(self.folder / "ca.crt"), "password": self.password_of(name)}
        return Access(BrokerUrl(host, self.port, tls=True, username=name), **(fields | changes))
