"""A small corpus on disk, and a fit of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.trainer.recordings import species_rows, write_folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread: tiny batches only wait for each other, and sums stay in order."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two species, with background, other birds and a night beside it."""
    top = tmp_path_factory.mktemp("data")
    write_folder(
        top / "background",
        [{"file": f"hum_{i}.wav", "content": "hum", "frequency": 200 + i} for i in range(8)],
        "background.csv",
    )
    others = [
        {"file": f"other_{i}.wav", "scientific_name": "Pica pica", "frequency": 9000 + 20 * i}
        for i in range(8)
    ]
    others.append({"file": "ours.wav", "scientific_name": "Parus major", "frequency": 5000})
    write_folder(top / "other_birds", others)
    night = [{"file": "jura_20190522_233000.wav", "frequency": 150}]
    night.append({"file": "jura_20190522_053000.wav", "frequency": 6000})
    write_folder(top / "unlabelled", night, "unlabelled.csv")
    return write_folder(top / "garden", species_rows(6))
