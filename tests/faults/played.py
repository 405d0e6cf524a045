"""What is played to a station: calls that can be told apart, at known instants.

Call number n is a tone of 0.3 s in a period of 0.5 s, and each of 24 species has its own pitch, so
species and instant together give the number. `Player` plays them as a microphone's world does:
time goes on whether somebody listens or not.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldstation.bundle import Bundle
from tests.onnx_models import make_tone_bundle, tone

RATE = 22_050
CALL_S, PERIOD_S = 0.3, 0.5
SPECIES: Mapping[str, float] = {f"Sonus {n:02}": 600.0 + 300 * n for n in range(24)}
"""Hertz per scientific name"""
NAMES = tuple(SPECIES)
ROUND_S = PERIOD_S * len(SPECIES)
"""After so long a species calls again"""
PIPE_BYTES = 1 << 20
"""Linux's largest for everybody: a station that starts or waits for the CPU holds nobody up"""
TURN_S = 0.05


def make_bundle(folder: Path) -> Bundle:
    """Write a bundle that names these calls, in windows of 0.2 s."""
    return make_tone_bundle(folder, SPECIES, RATE, samples=round(0.2 * RATE))


def species_of(number: int) -> str:
    """Return whose call it is."""
    return NAMES[number % len(NAMES)]


def sound(first_sample: int, n: int, first_call: int = 0) -> NDArray[np.float32]:
    """Return n samples of the endless stream, from `first_sample` on."""
    period = round(PERIOD_S * RATE)
    begin, end = first_sample // period, -(-(first_sample + n) // period)
    periods = [_period(species_of(first_call + number)) for number in range(begin, end)]
    offset = first_sample - begin * period
    return np.concatenate([*periods, np.zeros(0, np.float32)])[offset : offset + n]


def _period(species: str) -> NDArray[np.float32]:
    silence = np.zeros(round(PERIOD_S * RATE), np.float32)
    call = tone(SPECIES[species], CALL_S, RATE)
    silence[len(silence) - len(call) - RATE // 20 :][: len(call)] = call
    return silence


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached a station whole, with the silence after it."""

    number: int
    species: str
    began_at: float
    """Seconds since 1970 at which its period began"""
    life: int
    """Which listener it was played to, counted from 0"""


class Player:
    """Plays calls into a station's standard input, in real time, while there is one."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Played whole to one listener"""
        self.lives = -1
        self._pipe: int | None = None
        self._next_pipe: int | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_leaving = False
        self._position = 0
        self._began = time.monotonic()
        self._begun: tuple[int, float] | None = None
        """Number and instant of the call under way, if its beginning was heard"""
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def play_to(self, pipe: int) -> None:
        """Let a new listener hear from the next call on."""
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(pipe, False)
        with self._lock:
            self._next_pipe = pipe

    def leave(self) -> None:
        """Close the pipe at the end of the next call: the listener hears the end."""
        self._is_leaving = True
        wait_for(lambda: not self._is_leaving)

    def end(self) -> None:
        """Stop for good."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._lose()
            if self._next_pipe is not None:
                os.close(self._next_pipe)

    def _play(self) -> None:
        while not self._ended.wait(TURN_S):
            due = round((time.monotonic() - self._began) * RATE)
            with self._lock:
                while self._position < due:
                    self._step(due)

    def _step(self, due: int) -> None:
        """Play up to `due` or to the end of the call, and take note of a whole one."""
        period = round(PERIOD_S * RATE)
        number, into = divmod(self._position, period)
        n = min(due - self._position, period - into)
        if into == 0 and self._next_pipe is not None:
            self._pipe, self._next_pipe = self._next_pipe, None
            self.lives += 1
        if into == 0 and self._pipe is not None:
            self._begun = number, time.time()
        self._write(sound(self._position, n))
        self._position += n
        if into + n == period and self._begun is not None:
            self.calls.append(Call(number, species_of(number), self._begun[1], self.lives))
            if self._is_leaving:  # here, before a part of the next call can be heard
                self._lose()
                self._is_leaving = False

    def _write(self, samples: NDArray[np.float32]) -> None:
        left = memoryview((samples * 32_767).astype("<i2").tobytes())
        while left and self._pipe is not None and not self._ended.is_set():
            try:
                left = left[os.write(self._pipe, left) :]
            except BlockingIOError:  # the listener does not read: what is played waits for it
                self._ended.wait(TURN_S)
            except OSError:  # the listener is gone
                self._lose()

    def _lose(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe = self._begun = None


def match(calls: Iterable[Call], species: str, started_at: float) -> Call | None:
    """Return the call that an event must be: of its species, nearest in time."""
    near = [
        call
        for call in calls
        if call.species == species and abs(call.began_at - started_at) < ROUND_S / 2
    ]
    return min(near, key=lambda call: abs(call.began_at - started_at), default=None)


def wait_for(so: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until `so()` is true; fail when it does not become so."""
    deadline = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
