"""A hub's side of pictures: what it looks into, and when it makes room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.clock import SystemClock
from fieldstation.config import GenerationSettings
from fieldstation.gallery import Gallery
from fieldstation.hub_pictures import HubPictures
from fieldstation.store.late_log import LateLog
from tests.mqtt.wire_examples import ONE_PIXEL, PICTURE


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LateLog]:
    found = LateLog(str(tmp_path / "log.db"))
    yield found
    found.close()


def hub(log: LateLog, folder: Path, **generation: int) -> HubPictures:
    return HubPictures(log, Gallery(folder), GenerationSettings(**generation), SystemClock())


def do_chores(pictures: HubPictures) -> None:
    """Do what was asked for until nothing is."""
    pictures.tick()
    stop = threading.Event()
    beats = iter(range(3))
    pictures.chores.run(stop, lambda: None if next(beats, None) is not None else stop.set())


def test_a_png_is_looked_into(log: LateLog, tmp_path: Path) -> None:
    """One that is none, or of another size than told, is not kept."""
    pictures = hub(log, tmp_path / "images")
    assert pictures.intake.take(PICTURE, ONE_PIXEL, 1) == ""
    other = replace(PICTURE, image=replace(PICTURE.image, seed=1))
    assert "png: it is no PNG" in pictures.intake.take(other, b"GIF89a", 1)
    large = replace(other, image=replace(other.image, width=64))
    assert "told as 64 × 1" in pictures.intake.take(large, ONE_PIXEL, 1)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1


def test_who_sends_much_is_not_given_an_hour(log: LateLog, tmp_path: Path) -> None:
    """A twentieth of the room has come since the last look: what is too much goes now."""
    pictures = hub(log, tmp_path / "images", max_size_mb=1)
    do_chores(pictures)
    pictures.intake.take(PICTURE, ONE_PIXEL, 1)
    with log.opened().database.write() as connection:
        connection.exec_driver_sql("UPDATE images SET n_bytes = 2000000")
    do_chores(pictures)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1
    pictures._write("2026-05-01/large.png", bytes(60_000))
    do_chores(pictures)
    assert [path.name for path in (tmp_path / "images").rglob("*.png")] == ["large.png"]
