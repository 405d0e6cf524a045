"""The broker at home: a private Mosquitto, child of this process, for stations without another.

It listens on loopback, for readers, and on a socket in its folder, for the station itself: while
it is down anybody may take its port, and would be told whatever password is used there. Its folder
below the state holds

    mosquitto.conf, users, access   written anew at every start
    password, reader.json           made once; the second, readable by the group, is for
                                    `fieldstation watch` and other local subscribers
    socket                          nobody but our user can listen here
    port                            the one it had last, tried first
    pid                             to reclaim it if this process was killed
    mosquitto.db, mosquitto.log     its memory and what it says
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fieldstation.errors import PassingError
from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import Access, BrokerError, BrokerUrl
from fieldstation.processes import die_with_parent

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SOCKET = "socket"
STATION_USER, READER_USER = "station", "reader"
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps the broker, which is not in the PATH of ordinary users"""
START_S, STOP_S = 10.0, 5.0
LOADING_S = 1_800.0
"""It listens only when it has read all that it kept, which may be gigabytes on a slow card"""
STABLE_S = 60.0
"""One that ran so long is started again at once; one that dies sooner, after ever longer waits"""
N_TRIES = 3
"""Ports tried at first: between choosing a free one and listening on it somebody may take it"""
OURS_ALONE = ("NOTIFY_SOCKET", "FIELDSTATION_MQTT_PASSWORD", "PGPASSWORD")
"""A child with the first would tell READY in our place"""

CONFIG = """\
# The socket first: where the port answers, it is there too. Its path counts from the folder, since
# the kernel takes 107 bytes.
listener 0 {socket}
listener {port} {host}
allow_anonymous false
password_file {folder}/users
acl_file {folder}/access
persistence true
persistence_location {folder}/
autosave_interval 300
# 0 is no limit: Mosquitto's 1,000 would drop what an absent logger still has to hear
max_queued_messages 0
max_inflight_messages 500
persistent_client_expiration 14d
set_tcp_nodelay true
log_dest file {folder}/mosquitto.log
log_type error
log_type warning
log_type notice
connection_messages false
"""
ACCESS = f"""\
user {STATION_USER}
topic readwrite fieldstation/#

user {READER_USER}
topic read fieldstation/#
"""


class BrokerDown(BrokerError, PassingError):
    """The embedded broker does not start just now."""


class EmbeddedBroker:
    """A Mosquitto that lives and dies with this process."""

    def __init__(self, folder: Path, port: int = 1883) -> None:
        """Nothing happens before `start`.

        Args:
            folder: its own, below the state folder, whose lock the caller holds.
            port: the one to try where none was used before; 0 for a free one.
        """
        self._folder = folder.absolute()
        self._first_port = port
        self._port = 0
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._retry_at = self._started_at = 0.0
        self._is_wanted = False
        self._is_loading = False
        self._fault = ""

    @property
    def url(self) -> BrokerUrl:
        """Return where it listens."""
        return BrokerUrl(LOOPBACK, self._port, username=STATION_USER)

    @property
    def access(self) -> Access:
        """Return what opens it for the station, its logger and its worker."""
        return Access(self.url, self._password, socket=str(self._folder / SOCKET))

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and return when it listens, or takes long to. Main thread only: it dies with it.

        Raises:
            BrokerError: Mosquitto is not installed.
            BrokerDown: it does not start now: the port is taken, the disk full; the text says why.
        """
        self._start(N_TRIES)

    def _start(self, n_tries: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the broker must be started from the main thread")
        programs = find_program("mosquitto"), find_program("mosquitto_passwd")
        self._is_wanted = True
        try:
            self._prepare(programs[1])
            for _ in range(n_tries):
                if self._try_port(programs[0], self._choose_port()):
                    return
        except OSError as error:
            self._end()
            raise BrokerDown(f"{self._folder} cannot be written: {error.strerror}") from error
        raise BrokerDown(f"the embedded broker does not start: {self._last_words()}")

    def check(self) -> bool:
        """Return whether it listens; start a dead one again, with back-off. Main thread only."""
        if self.pid is not None and self._is_loading:
            return self._look_whether_it_listens()
        if self.pid is not None or not self._is_wanted:
            return self.pid is not None
        if time.monotonic() < self._retry_at:
            return False
        if self._process is not None:  # it ended since the last look
            self._process = None
            if time.monotonic() - self._started_at > STABLE_S:
                self._backoff.reset()
            log.warning("the embedded broker ended (%s): starting it again", self._last_words())
        self._retry_at = time.monotonic() + self._backoff.next()
        try:
            self._start(1)  # with more, who feeds the watchdog would be held up for too long
        except BrokerError as error:
            if str(error) != self._fault:
                log.error("%s; trying again", error)
            self._fault = str(error)
            return False
        self._fault = ""
        return not self._is_loading

    def stop(self) -> None:
        """End it; what it remembers is written to disk first."""
        self._is_wanted = False
        self._end()

    def _end(self) -> None:
        self._is_loading = False
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        with suppress(OSError):  # a full disk refuses even this; `reclaim` will see that it ended
            (self._folder / "pid").unlink(missing_ok=True)

    def _prepare(self, mosquitto_passwd: str) -> None:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        reclaim(self._folder)
        self._password = _kept_secret(self._folder / "password")
        self._write_users(mosquitto_passwd)
        _write(self._folder / "access", ACCESS)

    def _try_port(self, program: str, port: int) -> bool:
        """Start it on a port; False if the port is taken, or it ended soon."""
        if not is_free(port):  # its owner would answer our probe in our broker's place
            _write(self._folder / "mosquitto.log", f": Error: port {port} is taken\n")
            return False
        config = self._folder / "mosquitto.conf"
        text = CONFIG.format(port=port, host=LOOPBACK, socket=SOCKET, folder=self._folder)
        _write(config, text + _user_line())
        _write(self._folder / "mosquitto.log", "")
        with (self._folder / "mosquitto.log").open("ab") as said:
            self._process = subprocess.Popen(
                [program, "-c", str(config)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,  # what is wrong with its configuration it says here only
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; we stop it last
                preexec_fn=die_with_parent(),
            )
        _write(self._folder / "pid", f"{self._process.pid}\n")
        self._started_at = time.monotonic()
        self._is_loading = True
        if not self._wait_while_it_loads(port):
            self._end()
            return False
        self._port = port
        return True

    def _wait_while_it_loads(self, port: int) -> bool:
        """Wait a while for it to listen; return whether it does or may still come to."""
        deadline = time.monotonic() + START_S
        while self.pid is not None:
            if self._comes_to_listen(port):
                return True
            if time.monotonic() >= deadline:
                log.warning("the embedded broker takes long to read what it kept: waiting for it")
                return True
            time.sleep(0.02)
        return False

    def _look_whether_it_listens(self) -> bool:
        """Return whether a broker that took long listens now; end one that takes far too long."""
        with suppress(OSError):  # a full disk: the next look may do
            if self._comes_to_listen(self._port):
                return True
        if time.monotonic() - self._started_at > LOADING_S:
            log.error("the embedded broker did not come to listen in %.0f s", LOADING_S)
            self._end()
        return False

    def _comes_to_listen(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((LOOPBACK, port)) or self.pid is None:
                return False
        _write(self._folder / "port", f"{port}\n")
        self._write_reader(port)
        self._is_loading = False
        log.info("embedded broker at %s", BrokerUrl(LOOPBACK, port, username=STATION_USER))
        return True

    def _choose_port(self) -> int:
        for port in (self._port, _read_port(self._folder / "port"), self._first_port):
            if port and is_free(port):
                return port
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            free: int = probe.getsockname()[1]
        return free

    def _write_users(self, mosquitto_passwd: str) -> None:
        """Write both users; their passwords never stand on a command line."""
        users = self._folder / "users"
        reader = _kept_secret(self._folder / "reader")
        _write(users, f"{STATION_USER}:{self._password}\n{READER_USER}:{reader}\n")
        hashed = subprocess.run(
            [mosquitto_passwd, "-U", users], capture_output=True, check=False, env=_environment()
        )
        if hashed.returncode:
            users.unlink()
            said = hashed.stderr.decode(errors="replace").strip()
            raise BrokerError(f"mosquitto_passwd failed on {users}: {said}")

    def _write_reader(self, port: int) -> None:
        url = BrokerUrl(LOOPBACK, port, username=READER_USER)
        password = _kept_secret(self._folder / "reader")
        fields = {"url": str(url), "password": password, "socket": str(self._folder / SOCKET)}
        _write(
            self._folder / "reader.json",
            json.dumps(fields) + "\n",
            mode=0o640,
        )

    def _last_words(self) -> str:
        """Return what it last said, without the time: its errors, where there are any."""
        path = self._folder / "mosquitto.log"
        try:
            said = path.read_text(errors="replace").splitlines()
        except OSError:
            said = []
        lines = [line.partition(": ")[2] for line in said]
        errors = [line for line in lines if "Error" in line]
        return " ".join(errors[-2:] or lines[-1:]) or f"nothing in {path}"


def read_access(folder: Path) -> Access:
    """Return what opens the running station's embedded broker for a local reader.

    Raises:
        BrokerError: there is none, or it is not for this user.
    """
    path = folder / "reader.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        url = BrokerUrl.parse(fields["url"])
        return Access(url, fields["password"], socket=fields["socket"])
    except OSError as error:
        raise BrokerError(
            f"{path}: {error.strerror}: start the station, or join its group, or name a --broker"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BrokerError(f"{path} is damaged: start the station again: {error}") from error


def own_access(folder: Path) -> Access:
    """Return what opens a station's embedded broker for its worker, another process of its user.

    Raises:
        BrokerError: there is none yet, or it is not for this user.
    """
    found = read_access(folder)
    path = folder / "password"
    try:
        password = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BrokerError(
            f"{path}: {error}: start the worker as the station's user, or name a --broker"
        ) from error
    url = replace(found.url, username=STATION_USER)
    return Access(url, password, socket=found.socket)


def find_program(name: str) -> str:
    """Return the path of one of Mosquitto's programs.

    Raises:
        BrokerError: it is not installed.
    """
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), SBIN)))
    if found is None:
        raise BrokerError(
            f"{name} is not installed: `apt install mosquitto`, or name a broker in mqtt.url"
        )
    return found


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def reclaim(folder: Path) -> None:
    """End the broker of a station that was killed; nothing else that may have its process id."""
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if str(folder / "mosquitto.conf").encode() not in command:
        return
    log.warning("ending an embedded broker that was left behind (process %d)", pid)
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_S
        try:
            os.kill(pid, wanted)
            while time.monotonic() < deadline and not _has_ended(pid):
                time.sleep(0.02)
        except ProcessLookupError:
            return
        if _has_ended(pid):
            return


def _has_ended(pid: int) -> bool:
    """Return whether a process is gone, or only waits for its parent to take note."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def _environment() -> dict[str, str]:
    """Return our environment without what is ours alone: systemd's socket, and passwords."""
    return {name: value for name, value in os.environ.items() if name not in OURS_ALONE}


def _user_line() -> str:
    """Keep our user: as root, Mosquitto becomes another, which also clears the death signal."""
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"
    except KeyError:  # a container's user without a name; only root may change anyway
        return ""


def _kept_secret(path: Path) -> str:
    """Return a password made at the first call."""
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        secret = ""
    if not secret:
        secret = secrets.token_urlsafe(24)
        _write(path, secret + "\n")
    return secret


def _read_port(path: Path) -> int:
    try:
        port = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 65_536 else 0


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file in one step; nobody else can read it at any moment."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    temporary.replace(path)
