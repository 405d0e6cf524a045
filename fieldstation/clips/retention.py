"""Removes old clips: by age and by total size, oldest first."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from fieldstation.clock import US_PER_S

log = logging.getLogger(__name__)

US_PER_DAY = 86_400 * US_PER_S
STALE_US = 3_600 * US_PER_S
"""A temporary file of this age is left over from a power cut: none is written for so long"""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip on the disk."""

    path: Path
    event_id: UUID
    written_at: int
    n_bytes: int


def expire(folder: Path, max_age_days: float, max_bytes: int, now: int) -> list[UUID]:
    """Remove clips that are too old, then the oldest until the rest fits; return their events.

    Only files named by an event id are touched, and folders that become empty. A clip's age
    counts from when it was written: a replayed recording of last year is not old.

    Args:
        folder: may not exist yet.
        max_age_days: 0 means no limit.
        max_bytes: of all clips together.
        now: instant.

    A clip that cannot be removed (a read-only disk, say) is logged and stays.
    """
    clips = sorted(find_clips(folder), key=lambda clip: (clip.written_at, clip.path))
    due = choose(clips, max_age_days, max_bytes, now)
    removed = [clip.event_id for clip in due if _remove(clip.path)]
    _remove_stale(folder, now)
    if len(removed) < len(due):
        log.warning("%d clips below %s cannot be removed", len(due) - len(removed), folder)
    return removed


def take_over(folder: Path) -> Callable[[str], str | None]:
    """Clear up after a run that was killed; return what finds an event's clip among those it left.

    Half a clip has another name, and nobody writes one now: the state folder is locked.
    """
    for path in _unfinished(folder):
        _remove(path)

    def find(event_id: str) -> str | None:
        found = next(folder.glob(f"*/{event_id}.flac"), None)
        return None if found is None else str(found.relative_to(folder))

    return find


def choose(clips: list[Clip], max_age_days: float, max_bytes: int, now: int) -> list[Clip]:
    """Return which clips must go.

    Args:
        clips: oldest first.
    """
    oldest_allowed = now - round(max_age_days * US_PER_DAY) if max_age_days else None
    surplus = sum(clip.n_bytes for clip in clips) - max_bytes
    due = []
    for clip in clips:
        if surplus <= 0 and (oldest_allowed is None or clip.written_at >= oldest_allowed):
            break
        due.append(clip)
        surplus -= clip.n_bytes
    return due


def find_clips(folder: Path) -> list[Clip]:
    """Return the clips below a folder, in no order; what is not named by an id is left out."""
    clips = []
    for path in folder.glob("*/*.flac"):
        with contextlib.suppress(ValueError, FileNotFoundError):
            status = path.stat()
            clips.append(Clip(path, UUID(path.stem), status.st_mtime_ns // 1_000, status.st_size))
    return clips


def _remove(path: Path) -> bool:
    """Remove a clip, and its folder if that is empty now; return whether the clip is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # not empty
        path.parent.rmdir()
    return True


def _remove_stale(folder: Path, now: int) -> None:
    for path in _unfinished(folder):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime_ns // 1_000 < now - STALE_US:
                _remove(path)


def _unfinished(folder: Path) -> Iterator[Path]:
    for path in folder.glob("*/*.tmp"):
        with contextlib.suppress(ValueError):
            UUID(path.stem)
            yield path
