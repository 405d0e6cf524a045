"""Folders of tones to judge a tone bundle by."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf

from tests.onnx_models import tone

CHAFFINCH, GREAT_TIT = 2_000.0, 4_000.0
OTHER = 7_000.0
"""Hertz that no label of the tone bundle stands for"""


def write_audio(
    path: Path,
    calls: Mapping[float, Sequence[tuple[float, float]]],
    seconds: float = 3.0,
    sample_rate: int = 22_050,
) -> Path:
    """Write silence with tones in it, (start, end) in seconds by hertz; return the path."""
    samples = np.zeros(round(seconds * sample_rate), np.float32)
    for frequency, spans in calls.items():
        for start_s, end_s in spans:
            first = round(start_s * sample_rate)
            part = tone(frequency, end_s - start_s, sample_rate)[: len(samples) - first]
            samples[first : first + len(part)] += part
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, sample_rate)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a CSV with the columns of its first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path
