"""Retention removes the oldest clips first, only clips, and no more than it must."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from fieldstation.clips.retention import US_PER_DAY, Clip, choose, expire, take_over
from fieldstation.clock import US_PER_S

NOW = 1_800_000_000 * US_PER_S


def put(folder: Path, number: int, age_days: float, n_bytes: int = 100) -> Path:
    """Write a clip of an age."""
    path = folder / f"day-{age_days:g}" / f"{UUID(int=number)}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(n_bytes))
    written_ns = (NOW - round(age_days * US_PER_DAY)) * 1_000
    os.utime(path, ns=(written_ns, written_ns))
    return path


def numbers(expired: list[UUID]) -> list[int]:
    """Return the numbers of the clips' events."""
    return [identity.int for identity in expired]


def test_old_clips_and_their_empty_folders_go(tmp_path: Path) -> None:
    """At 90 days the clip of 91 goes and that of 89 stays."""
    old, young = put(tmp_path, 1, 91), put(tmp_path, 2, 89)
    assert numbers(expire(tmp_path, 90, 10_000, NOW)) == [1]
    assert not old.parent.exists()
    assert young.exists()


def test_the_oldest_go_until_the_rest_fits(tmp_path: Path) -> None:
    """Of five clips of 100 bytes 250 bytes keep the two youngest."""
    for number in range(5):
        put(tmp_path, number, age_days=10 - number)
    assert numbers(expire(tmp_path, 90, 250, NOW)) == [0, 1, 2]
    assert len(list(tmp_path.rglob("*.flac"))) == 2
    assert expire(tmp_path, 90, 250, NOW) == []


def test_an_age_of_zero_days_means_never(tmp_path: Path) -> None:
    """Without a limit of age a clip of ten years stays."""
    put(tmp_path, 1, 3_650)
    assert expire(tmp_path, 0, 10_000, NOW) == []


def test_what_is_no_clip_is_left_alone(tmp_path: Path) -> None:
    """Files that are not named by an event id are neither counted nor removed."""
    put(tmp_path, 1, 1)
    for name in ("mine.flac", "notes.txt"):
        (tmp_path / "day-1" / name).write_bytes(bytes(10_000))
    assert expire(tmp_path, 90, 100, NOW) == []
    assert numbers(expire(tmp_path, 90, 0, NOW)) == [1]
    assert sorted(p.name for p in (tmp_path / "day-1").iterdir()) == ["mine.flac", "notes.txt"]


def test_a_temporary_file_of_yesterday_is_removed_and_todays_stays(tmp_path: Path) -> None:
    """What a power cut left over goes; what is being written does not."""
    stale = put(tmp_path, 1, 1).rename(tmp_path / "day-1" / f"{UUID(int=1)}.tmp")
    fresh = put(tmp_path, 2, 0).rename(tmp_path / "day-0" / f"{UUID(int=2)}.tmp")
    assert expire(tmp_path, 90, 10_000, NOW) == []
    assert not stale.exists()
    assert fresh.exists()


def test_a_folder_that_is_not_there_yet_has_nothing_to_expire(tmp_path: Path) -> None:
    """Before the first clip there is no folder."""
    assert expire(tmp_path / "clips", 90, 0, NOW) == []


@given(
    st.lists(st.tuples(st.floats(0, 200), st.integers(0, 1_000)), max_size=20),
    st.floats(1, 150),
    st.integers(0, 5_000),
)
def test_what_stays_is_young_fits_and_could_not_be_more(
    sizes: list[tuple[float, int]], max_age_days: float, max_bytes: int
) -> None:
    """The rest keeps both limits, and the youngest that went would have broken one."""
    clips = sorted(
        (
            Clip(Path(str(i)), UUID(int=i), NOW - round(age * US_PER_DAY), n_bytes)
            for i, (age, n_bytes) in enumerate(sizes)
        ),
        key=lambda clip: clip.written_at,
    )
    gone = choose(clips, max_age_days, max_bytes, NOW)
    stays = clips[len(gone) :]
    assert clips[: len(gone)] == gone
    assert sum(clip.n_bytes for clip in stays) <= max_bytes
    limit = NOW - round(max_age_days * US_PER_DAY)
    assert all(clip.written_at >= limit for clip in stays)
    if gone:
        too_big = sum(clip.n_bytes for clip in stays) + gone[-1].n_bytes > max_bytes
        assert too_big or gone[-1].written_at < limit


def test_after_a_kill_whole_clips_are_found_and_halves_removed(tmp_path: Path) -> None:
    """Between the file and its row there is a moment; what is no clip is left alone."""
    assert take_over(tmp_path / "none yet")(str(UUID(int=1))) is None
    whole = put(tmp_path, 1, 1)
    half = whole.with_name(f"{UUID(int=2)}.tmp")
    foreign = whole.with_name("mine.tmp")
    for path in (half, foreign):
        path.touch()
    find = take_over(tmp_path)
    assert find(str(UUID(int=1))) == str(whole.relative_to(tmp_path))
    assert find(str(UUID(int=2))) is None
    assert foreign.exists()
    assert not half.exists()
