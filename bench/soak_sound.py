"""What a soak plays: calls that the bundle names wherever its windows fall, in faint noise."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bench.simulated import SimulatedTime
from bench.soak_station import BLOCK, BLOCK_S
from fieldstation.analysis.classifier import Classifier
from fieldstation.bundle import Bundle
from fieldstation.records import LabelKind, Samples, Window
from tests.faults.played import RATE

SOUND_S = 3.0
STEP_S = 1.0
"""Between the cuts that are tried"""
STEP_OF_TIME_S = 0.05
N_OFFSETS = 12
"""Ways in which the windows may fall that are tried"""
SURE = 0.08
"""Above and below the threshold by which a cut is taken for sure"""
MOST_OF_A_SPECIES = 2
NOISE = 20
"""Steps of 16 bits that the loudest sample has: no dead microphone, and no bird"""
NOISE_S = 60.0
BETWEEN_CALLS_S = (15.0, 105.0)
PIPE_BYTES = 1 << 20
LOOK_S = 0.0005
TURN_S = 6.0
"""Simulated seconds in which every thread is to have its turn: stages have 20 or more"""
LIST_S = 0.5
"""Between two looks at which threads there are"""
BUSY = {b"R", b"D"}


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Something that the bundle names."""

    species: str
    samples: NDArray[np.int16]


@dataclass(slots=True)
class Call:
    """A sound that was played, or fell into a time in which nobody could hear it."""

    number: int
    species: str
    began_s: float
    """Simulated seconds since the soak began"""
    ends_s: float
    is_whole: bool = True
    """Whether all of it was given to the same listener"""


def faint_noise(n: int, seed: int) -> NDArray[np.int16]:
    """Return noise that falls by 3 dB an octave, as outdoors; white, it may pass for a thrush."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1)), n)
    return np.round(noise * NOISE / np.abs(noise).max()).astype(np.int16)


class Judge:
    """Tells what a bundle makes of a sound, in the same way each time."""

    def __init__(self, bundle: Bundle, thresholds: Sequence[float]) -> None:
        self._classifier = Classifier(bundle, "cpu", 1)
        self._labels = bundle.labels
        self._length = bundle.samples_per_window
        self._thresholds = np.array(thresholds)
        self._is_species = np.array([label.kind is LabelKind.SPECIES for label in bundle.labels])

    def margins(self, samples: Samples) -> NDArray[np.float32]:
        """Return by how much each species passes its threshold in one window."""
        window = Window(samples, started_at=0, offset=0, n_new=samples.size)
        (prediction,) = self._classifier.predict([window])
        return np.where(self._is_species, prediction.probabilities - self._thresholds, -1.0)

    def species(self, sound: Samples) -> str | None:
        """Return whose call it surely is, once, wherever windows fall; None where it is not."""
        silence = faint_noise(self._length * 3, seed=0)
        found = set()
        for offset in range(0, self._length // 2, self._length // 2 // N_OFFSETS):
            stretch = (silence / 32_768).astype(np.float32)
            stretch[self._length - offset :][: sound.size] += sound
            found.add(self._once(stretch))
        return found.pop() if len(found) == 1 else None

    def _once(self, stretch: Samples) -> str | None:
        hop = self._length // 2
        starts = range(0, stretch.size - self._length + 1, hop)
        margins = np.array([self.margins(stretch[at : at + self._length]) for at in starts])
        named = np.flatnonzero(margins.max(axis=0) > -SURE)
        if len(named) != 1 or margins[:, named[0]].max() < SURE:
            return None
        runs = [is_named for is_named, _ in groupby(margins[:, named[0]] >= 0)]
        return self._labels[named[0]].scientific_name if sum(runs) == 1 else None


def choose(judge: Judge, recordings: Sequence[Path], n: int, seed: int) -> list[Sound]:
    """Return up to n sounds, of as many species as can be found."""
    sounds: list[Sound] = []
    for path in random.Random(seed).sample(list(recordings), len(recordings)):
        if len(sounds) >= n:
            break
        for cut in _cuts(path):
            if judge.margins(cut).max() < 2 * SURE or (species := judge.species(cut)) is None:
                continue
            if sum(sound.species == species for sound in sounds) < MOST_OF_A_SPECIES:
                sounds.append(Sound(species, (cut * 32_767).astype(np.int16)))
            break
    return sounds


def _cuts(path: Path) -> Iterator[Samples]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), rate, RATE).astype(np.float32)
    n = round(SOUND_S * RATE)
    for start in range(0, mono.size - n + 1, round(STEP_S * RATE)):
        yield np.clip(mono[start : start + n], -0.9, 0.9)


class Tape:
    """The endless stream of noise and calls; the same for the same seed."""

    def __init__(self, sounds: Sequence[Sound], seed: int) -> None:
        """Lay out the stream.

        Raises:
            ValueError: there are no sounds; whoever plays it would end, and time stand still.
        """
        if not sounds:
            raise ValueError("a tape needs a sound: the bundle surely names none at this threshold")
        self.calls: list[Call] = []
        """That have begun"""
        self._sounds = sounds
        self._chance = random.Random(seed)
        n = round(NOISE_S * RATE) + BLOCK
        self._noise = faint_noise(n, seed)
        self._n = 0
        self._under_way: tuple[Call, Sound, int] | None = None
        """With the call's first sample"""
        self._next = self._draw(0)

    def block(self) -> NDArray[np.int16]:
        """Return the next block."""
        at = self._n % round(NOISE_S * RATE)
        block = self._noise[at : at + BLOCK].copy()
        if self._next < self._n + BLOCK and self._under_way is None:
            self._begin()
        if self._under_way is not None:
            self._add(block, *self._under_way)
        self._n += BLOCK
        return block

    def spoil(self) -> None:
        """Take note that the block was not heard by whoever heard those before."""
        if self._under_way is not None:
            self._under_way[0].is_whole = False
        elif self.calls and self.calls[-1].ends_s * RATE > self._n - BLOCK:
            self.calls[-1].is_whole = False

    def _begin(self) -> None:
        sound = self._chance.choice(self._sounds)
        began_s = self._next / RATE
        call = Call(len(self.calls), sound.species, began_s, began_s + sound.samples.size / RATE)
        self.calls.append(call)
        self._under_way = call, sound, self._next
        self._next = self._draw(self._next + sound.samples.size)

    def _add(self, block: NDArray[np.int16], call: Call, sound: Sound, first: int) -> None:
        into = max(0, first - self._n)
        part = sound.samples[max(0, self._n - first) :][: BLOCK - into]
        block[into : into + part.size] += part
        if first + sound.samples.size <= self._n + BLOCK:
            self._under_way = None

    def _draw(self, after: int) -> int:
        return after + round(self._chance.uniform(*BETWEEN_CALLS_S) * RATE)


class Workers:
    """The threads of processes, of which one may have something to do."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._files: list[int] = []
        self._listed_at = -LIST_S
        self._waited_for: set[int] = set()

    def watch(self, name: str, pid: int | None) -> None:
        """Look at a process from now on, in place of an earlier one of that name."""
        self._pids.pop(name, None)
        if pid is not None:
            self._pids[name] = pid
        self._waited_for, self._listed_at = set(), -LIST_S

    def turn(self) -> bool:
        """Look once more; return whether each had nothing to do at a look since the last turn.

        Threads that must do something for time to go on get the processor so, on a machine that
        is busy with other things, before the next turn begins.
        """
        if not self._waited_for and time.monotonic() - self._listed_at > LIST_S:
            self._list()
        self._waited_for = {file for file in self._waited_for or self._files if _is_busy(file)}
        return not self._waited_for

    def _list(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []
        for pid in self._pids.values():
            for thread in _threads(pid):
                with suppress(OSError):  # it ended just now
                    self._files.append(os.open(f"/proc/{pid}/task/{thread}/stat", os.O_RDONLY))
        self._listed_at = time.monotonic()


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _is_busy(file: int) -> bool:
    """Return whether a thread runs, or waits for the processor or a disk."""
    try:
        return os.pread(file, 64, 0).rpartition(b") ")[2][:1] in BUSY
    except OSError:  # it is gone
        return False


class Player:
    """Lets simulated time pass, block by block, and plays the tape to who listens.

    It waits until a block was taken, and every few seconds until each thread has had its turn: so
    time waits for the station, however busy the machine is with other things. But it never waits
    longer than the block lasts: then time passes as it does in reality.
    """

    def __init__(self, now: SimulatedTime, tape: Tape, fastest: float) -> None:
        """Begin.

        Args:
            fastest: simulated seconds a real second, at most.
        """
        self.tape = tape
        self.workers = Workers()
        self.pace = 1.0
        """Simulated seconds a real one while nobody listens"""
        self.is_ending = False
        """Whether who listens was told to stop, and hears no more: time passes as in reality"""
        self.is_unplugged = False
        self.is_silent = False
        self.played_at: list[float] = []
        """Real seconds since 1970 at which each block was played"""
        self.n_not_taken = 0
        """Blocks that found a full pipe"""
        self.n_real = 0
        """Blocks that lasted as long as in reality, though somebody listened"""
        self._turned_s = 0.0
        self._n_given = 0
        """What the card counts when it has taken the last block"""
        self._now = now
        self._least_s = BLOCK_S / fastest
        self._pipe: int | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def play_to(self, pipe: int) -> None:
        """Let a new listener hear from the next block on."""
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(pipe, False)
        with self._lock:
            self._lose()
            self._pipe = pipe

    def end(self) -> None:
        """Let no time pass any more."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._lose()

    def _play(self) -> None:
        while not self._ended.is_set():
            block = self.tape.block()
            began = time.monotonic()
            self._pass_time(began)
            self._give(block)
            self._wait(began)

    def _pass_time(self, began: float) -> None:
        """Let a block's time pass; as in reality, if so it is to be, in small steps."""
        is_real = self.is_ending or (self._pipe is None and self.pace <= 1.0)
        n = round(BLOCK_S / STEP_OF_TIME_S) if is_real else 1
        for step in range(n):
            self._now.advance(BLOCK_S / n)
            if is_real:
                time.sleep(max(0.0, began + (step + 1) * BLOCK_S / n - time.monotonic()))

    def _give(self, block: NDArray[np.int16]) -> None:
        self.played_at.append(time.time())
        with self._lock:
            if self._pipe is None or self.is_unplugged or self.is_silent:
                self.tape.spoil()
            if self._pipe is not None and not self.is_unplugged:
                self._write(bytes(2 * BLOCK) if self.is_silent else block.tobytes())

    def _write(self, block: bytes) -> None:
        assert self._pipe is not None
        if PIPE_BYTES - _unread(self._pipe) < 2 * len(block):
            self.n_not_taken += 1
            self.tape.spoil()
            return
        try:
            self._n_given = self._now.get("n_taken") + 1
            os.write(self._pipe, block)
        except OSError:  # the listener is gone
            self.tape.spoil()
            self._lose()

    def _wait(self, began: float) -> None:
        while (waited_s := time.monotonic() - began) < BLOCK_S and not self.is_ending:
            with self._lock:
                is_heard = self._pipe is not None and not self.is_unplugged
            is_taken = is_heard and self._now.get("n_taken") >= self._n_given
            least_s = self._least_s if is_heard else BLOCK_S / self.pace
            if waited_s >= least_s and is_taken == is_heard and self._all_had_their_turn():
                return
            time.sleep(LOOK_S)
        self.n_real += self._pipe is not None and not self.is_ending

    def _all_had_their_turn(self) -> bool:
        if self._now.elapsed_s < self._turned_s + TURN_S:
            return True
        if not self.workers.turn():
            return False
        self._turned_s = self._now.elapsed_s
        return True

    def _lose(self) -> None:
        if self._pipe is not None:
            with suppress(OSError):
                os.close(self._pipe)
        self._pipe = None


def _unread(pipe: int | None) -> int:
    """Return the bytes in a pipe that nobody has read yet."""
    assert pipe is not None
    n: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return n
