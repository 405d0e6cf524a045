"""Folders of synthetic recordings for the trainer's tests."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 22_050


def tone(frequency: float, seconds: float, level: float = 0.3) -> np.ndarray:
    """Return a sine with a little hiss, float32."""
    at = np.arange(round(seconds * RATE)) / RATE
    hiss = np.random.default_rng(int(frequency)).standard_normal(len(at)) * 1e-3
    return (level * np.sin(2 * np.pi * frequency * at) + hiss).astype(np.float32)


def write_folder(
    folder: Path, rows: list[dict[str, object]], manifest: str = "recordings.csv"
) -> Path:
    """Write a manifest and, for each row, a 4 s tone of its `frequency`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = sorted({key for row in rows for key in row if key != "frequency"})
    with (folder / manifest).open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, columns, extrasaction="ignore")
        out.writeheader()
        out.writerows(rows)
    for row in rows:
        if "frequency" in row:
            path = folder / str(row["file"])
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, tone(float(str(row["frequency"])), 4.0), RATE)
    return folder


def species_rows(n_per_species: int = 4) -> list[dict[str, object]]:
    """Return rows of two species whose calls differ in pitch, in folds 0 and 1."""
    return [
        {
            "file": f"{name.split()[0]}_{i}.wav",
            "scientific_name": name,
            "common_name": common,
            "fold": i % 2,
            "licence_tier": "AB"[i % 2],
            "licence": "CC BY-NC-SA 4.0",
            "recordist": f"Recordist {i}",
            "frequency": pitch + 40 * i,
        }
        for name, common, pitch in (
            ("Turdus merula", "Blackbird", 1500),
            ("Parus major", "Great Tit", 5000),
        )
        for i in range(n_per_species)
    ]
