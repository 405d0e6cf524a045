"""When recordings began, by the names that recorders give."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fieldstation.audio.start_times import StartSource, named_start, start_time, tagged_start
from fieldstation.clock import instant_of

BERLIN = ZoneInfo("Europe/Berlin")
PLUS_10 = timezone(timedelta(hours=10))


@pytest.mark.parametrize(
    ("stem", "zone"),
    [
        ("20190522_043015", BERLIN),
        ("20190522_043015T", BERLIN),  # AudioMoth, triggered
        ("CHE_01_20190522_043015", BERLIN),
        ("S4A01234_20190522$043015", BERLIN),
        ("2019-05-22T04-30-15", BERLIN),
        ("2019-05-22 04:30:15", BERLIN),
        ("2019_05_22_04_30_15", BERLIN),
        ("20190522043015", BERLIN),
        ("Blackbird-85-2019-05-22-birdnet-04:30:15", BERLIN),
        ("20190522T043015Z", UTC),
        ("20190522T043015+1000_REC", PLUS_10),
        ("2019-05-22T04-30-15+10:00", PLUS_10),
        ("5CE4D057", UTC),  # AudioMoth's first firmware
    ],
)
def test_names_tell_the_start(stem: str, zone: tzinfo) -> None:
    """Every recorder writes half past four in its own way; without a zone it is the station's."""
    assert named_start(stem, BERLIN) == instant_of(datetime(2019, 5, 22, 4, 30, 15, tzinfo=zone))


@pytest.mark.parametrize(
    "stem",
    [
        "XC521936_Erithacus_rubecula",
        "1558499415",  # Unix time, or a counter
        "20190522",
        "2019-05-22",
        "20190631_120000",  # no such day
        "20190522_250000",
        "120190522_0430159",
        "nips4b_birds_trainfile001",
        "DEADBEEF",
        "5ce4d047",
    ],
)
def test_other_names_tell_nothing(stem: str) -> None:
    """Digits that are no time of day are not made one."""
    assert named_start(stem, BERLIN) is None


def test_fractions_of_a_second_count() -> None:
    """Some recorders write milliseconds."""
    whole = named_start("20190522_043015", BERLIN)
    assert whole is not None
    assert named_start("20190522_043015.250", BERLIN) == whole + 250_000


def test_a_tag_counts_if_it_holds_a_time() -> None:
    """A year or a day alone would become a midnight that nobody recorded at."""
    assert tagged_start("2019-05-22T04:30:15", BERLIN) == named_start("20190522_043015", BERLIN)
    assert tagged_start("2019-05-22T04:30:15Z", BERLIN) == named_start("20190522_043015Z", BERLIN)
    for tag in ("", "2019", "2019-05-22", "at 4:30"):
        assert tagged_start(tag, BERLIN) is None


def test_the_name_is_trusted_before_the_tag_before_the_file(tmp_path: Path) -> None:
    """A file without either ended when it was last written."""
    tag = "2020-01-01T00:00:00Z"
    named, plain = tmp_path / "20190522_043015.wav", tmp_path / "robin.wav"
    plain.write_bytes(b"")
    os.utime(plain, (1_600_000_000, 1_600_000_000))
    assert start_time(named, tag, 10, BERLIN)[1] is StartSource.NAME
    assert start_time(plain, tag, 10, BERLIN) == (1_577_836_800_000_000, StartSource.TAG)
    assert start_time(plain, "", 2.5, BERLIN) == (1_599_999_997_500_000, StartSource.FILE_TIME)
