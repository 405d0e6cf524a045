"""A sound card without hardware: PipeWire, private to a test, with a null sink as microphone.

What is played into the sink comes out of the default ALSA device, sample for sample, so that
PortAudio, its callback thread and the whole station run as they do with a microphone. Everything
lives below one shell that ends with the pipe to it, and so with the test's process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("pipewire", "wireplumber", "pipewire-pulse", "pactl", "paplay", "dbus-run-session")
SINK = "garden"
PATIENCE_S = 30.0
QUANTUM = 4096
"""Samples a cycle. A client may ask for 256; a loaded machine without real-time priority then
loses some, which a test of the station's own losses must not."""

FIRST = ("nice", "--adjustment=-11")
"""Before a command that plays: on a machine with a card nothing waits for the processor here. Who
may not go first (all but root) runs as before."""

# Both clients of the server end at once where they find none.
SERVER = """
renice --priority -11 --pid $$ >/dev/null 2>&1
pipewire &
until [ -S "$XDG_RUNTIME_DIR/pipewire-0" ]; do sleep 0.05; done
wireplumber & pipewire-pulse &
read -r _
kill -KILL 0
"""


class SoundServer:
    """A running server; `environment` leads a process to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Take the environment in which the server was started."""
        self.environment = environment

    def control(self, *command: str) -> str:
        """Return what pactl says.

        Raises:
            subprocess.CalledProcessError: it refused.
        """
        return subprocess.run(
            ["pactl", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        ).stdout

    def play(self, file: Path) -> subprocess.Popen[bytes]:
        """Begin to play a file into the microphone, at its own speed."""
        return subprocess.Popen(
            [*FIRST, "paplay", f"--device={SINK}", str(file)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def listeners(self) -> int:
        """Return how many programs listen to the microphone."""
        return len(self.control("list", "short", "source-outputs").splitlines())

    def wait_for_listener(self, still: Callable[[], bool] = lambda: True) -> None:
        """Wait until a program listens.

        Args:
            still: whether that program is alive.
        """
        _wait("a program listens to the microphone", lambda: self.listeners() > 0 or not still())
        assert still(), "the program that was to listen has ended"


def why_not() -> str | None:
    """Return why this machine has no PipeWire for a test, or None."""
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(lacking)} (deploy/test.sh names the packages)"
    if not any(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pipewire.so")):
        return "needs the package pipewire-alsa"
    return None


@contextmanager
def sound_server(sample_rate: int = 48_000) -> Iterator[SoundServer]:
    """Run PipeWire with a mono null sink whose monitor is the default microphone.

    Args:
        sample_rate: of the whole server, in hertz, so that nothing is resampled.
    """
    # A short path: sockets live in it, and their names end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="snd", ignore_cleanup_errors=True) as folder:
        environment = _environment(Path(folder), sample_rate)
        shell = subprocess.Popen(
            ["dbus-run-session", "--", "bash", "-c", SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(Path(folder) / "server.log").open("wb"),
            start_new_session=True,
        )
        try:
            server = SoundServer(environment)
            _wait("the sound server answers", lambda: _accepts(server, "info"))
            add_microphone(server, sample_rate)
            yield server
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def _environment(folder: Path, sample_rate: int) -> dict[str, str]:
    """Write the server's and ALSA's settings and return the environment that points to them."""
    settings = folder / "config" / "pipewire" / "pipewire.conf.d" / "rate.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        f"context.properties = {{ default.clock.rate = {sample_rate} "
        f"default.clock.allowed-rates = [ {sample_rate} ] "
        f"default.clock.quantum = {QUANTUM} default.clock.min-quantum = {QUANTUM} }}\n"
    )
    alsa = folder / "asound.conf"
    # Nothing of the machine's own: its plug-ins would come into every process that listens.
    alsa.write_text("pcm.!default { type pipewire }\nctl.!default { type pipewire }\n")
    kept = {k: v for k, v in os.environ.items() if k not in ("PULSE_SERVER", "DISPLAY")}
    return kept | {
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_STATE_HOME": str(folder / "state"),
        "ALSA_CONFIG_PATH": str(alsa),
    }


def _accepts(server: SoundServer, *command: str) -> bool:
    """Return whether the server does what it is told; early on it knows no default devices."""
    try:
        server.control(*command)
    except subprocess.CalledProcessError:
        return False
    return True


def add_microphone(server: SoundServer, sample_rate: int) -> None:
    """Plug the virtual microphone in and make it the default."""
    server.control(
        "load-module", "module-null-sink", f"sink_name={SINK}", "channels=1", f"rate={sample_rate}"
    )
    monitor = f"{SINK}.monitor"
    _wait("a microphone", lambda: _accepts(server, "set-default-source", monitor))
    _wait("it is the default", lambda: server.control("get-default-source").strip() == monitor)


def _wait(what: str, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)
