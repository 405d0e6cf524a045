"""The folder of pictures: whole files with safe names, on a real disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fieldstation.clock import SystemClock
from fieldstation.gallery import (
    Gallery,
    GalleryError,
    LimitedGallery,
    NoFolder,
    picture_name,
)
from fieldstation.records import Image
from tests.store.conftest import full_disk
from tests.store.examples import DAWN, image

EVENT = str(UUID(int=1))
NAME = picture_name(EVENT, "0123456789abcdef", 7, DAWN, "Europe/Berlin")


def of(png: bytes, **changes: Any) -> Image:
    return image(sha256=hashlib.sha256(png).hexdigest(), **{"file": NAME, **changes})


def test_a_picture_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Its folder is the local date; written again it is the same file."""
    gallery = Gallery(tmp_path / "images")
    for _ in range(2):
        gallery.write(NAME, b"png")
    assert f"2026-05-01/{EVENT}-0123456789abcdef-7.png" == NAME
    assert gallery.read(of(b"png")) == b"png"
    assert [p.name for p in (tmp_path / "images" / "2026-05-01").iterdir()] == [NAME[11:]]
    assert (tmp_path / "images" / NAME).stat().st_mode & 0o007 == 0


def test_what_is_gone_or_was_exchanged_is_not_shown(tmp_path: Path) -> None:
    """A file that somebody put in its place is not the picture."""
    gallery = Gallery(tmp_path)
    assert gallery.read(of(b"png")) is None
    assert gallery.read(of(b"png", file=None)) is None
    gallery.write(NAME, b"another")
    assert gallery.read(of(b"png")) is None


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    """The error names the folder and the mend; with room again it works."""
    gallery = Gallery(tmp_path)
    with full_disk(10), pytest.raises(GalleryError, match="make room"):
        gallery.write(NAME, b"x" * 1_000)
    assert list(tmp_path.rglob("*.*")) == []
    gallery.write(NAME, b"x" * 1_000)


def test_a_folder_that_nobody_else_cleans_keeps_its_size(tmp_path: Path) -> None:
    """The oldest go, some at a time; what a person has put there stays."""
    gallery = LimitedGallery(tmp_path, max_bytes=1_000)
    mine = tmp_path / "2026-05-01" / "holiday.png"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * 5_000)
    names = [picture_name(EVENT, "0123456789abcdef", n, DAWN, "Europe/Berlin") for n in range(30)]
    for at, name in enumerate(names):
        gallery.write(name, b"x" * 100)
        os.utime(tmp_path / name, (at, at))
    kept = [name for name in names if (tmp_path / name).exists()]
    assert kept == names[-len(kept) :]
    assert 10 <= len(kept) <= 11
    assert mine.exists()


@pytest.mark.parametrize("folder", ["a file", "a file/below", "x" * 300])
def test_a_folder_that_can_never_be_is_told_at_once(tmp_path: Path, folder: str) -> None:
    """It was waited out like a full disk."""
    (tmp_path / "a file").touch()
    with pytest.raises(NoFolder, match=r"can hold no pictures: .*name another folder"):
        Gallery(tmp_path / folder).prepare()


def test_a_look_at_the_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    """Whoever lists pictures finds pictures."""
    Gallery(tmp_path / "images").prepare()
    assert list((tmp_path / "images").iterdir()) == []


def test_a_disk_that_does_not_say_what_is_there_is_a_passing_fault(tmp_path: Path) -> None:
    """Not the end of who asks."""
    with pytest.raises(GalleryError, match="pictures in"):
        Gallery(tmp_path / ("x" * 300)).has(NAME)


def test_a_removed_picture_takes_its_empty_folder_along(tmp_path: Path) -> None:
    """One that is gone already is removed too."""
    gallery = Gallery(tmp_path)
    gallery.write(NAME, b"a")
    gallery.write("2026-05-01/b.png", b"b")
    gallery.remove(NAME)
    gallery.remove(NAME)
    assert [p.name for p in (tmp_path / "2026-05-01").iterdir()] == ["b.png"]
    gallery.remove("2026-05-01/b.png")
    assert list(tmp_path.iterdir()) == []


def test_what_a_power_cut_left_is_swept_away(tmp_path: Path) -> None:
    """Not what is being written now."""
    gallery = Gallery(tmp_path)
    gallery.write(NAME, b"a")
    for name in (".old.png.1.tmp", ".new.png.1.tmp"):
        (tmp_path / "2026-05-01" / name).touch()
    os.utime(tmp_path / "2026-05-01" / ".old.png.1.tmp", (0, 0))
    gallery.remove_stale(SystemClock().wall())
    left = {p.name for p in (tmp_path / "2026-05-01").iterdir()}
    assert left == {NAME[11:], ".new.png.1.tmp"}


@pytest.mark.parametrize(
    ("event_id", "generator_id"),
    [("../../x", "0" * 16), (EVENT, "../../../../x/y/z"), (EVENT, "0123456789ABCDEF"), ("", "")],
)
def test_a_name_cannot_leave_the_folder(event_id: str, generator_id: str) -> None:
    """Whatever a message calls itself."""
    with pytest.raises(ValueError, match=r"hexadecimal|badly formed"):
        picture_name(event_id, generator_id, 7, DAWN, "UTC")
