"""When a recording began: told by its name, its metadata or its file, in that order of trust."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

from fieldstation.clock import US_PER_S, instant_of, parse_instant

NAMED = re.compile(
    r"""(?<!\d)
    (?P<date>(?:19|20)\d\d ([-_]?) [01]\d \2 [0-3]\d)
    (?: [T_ $-] | -birdnet- )?
    (?P<time>[0-2]\d ([-_:.h]?) [0-5]\d [-_:.m]? [0-5]\d) (?!\d)
    (?P<fraction>\.\d{1,6}(?!\d))?
    (?P<zone>Z(?![a-z]) | [+-](?:0\d|1[0-4]):?(?:00|15|30|45)(?!\d))?""",
    re.VERBOSE | re.IGNORECASE,
)
"""20190522_000000 (AudioMoth, Song Meter), 2019-05-22T00-00-00, 20200101T000000+1000 (BAR),
2023-01-05-birdnet-06:30:15 (BirdNET-Pi), SITE_20161023$195550 (Song Meter with GPS)"""

HEX_NAMED = re.compile(r"(?=[0-9A-F]*[A-F])[4-7][0-9A-F]{7}")
"""AudioMoth before firmware 1.2: the Unix time in hexadecimal, 2004 to 2038. Eight plain digits
are left alone: they are a date or a counter, as are decimal Unix times."""


class StartSource(StrEnum):
    """Who says when a recording began."""

    NAME = "name"
    TAG = "tag"
    FILE_TIME = "file time"
    """Last change of the file, less its duration: a copy without times makes it wrong"""


def start_time(
    path: Path, date_tag: str, duration_s: float, zone: ZoneInfo
) -> tuple[int, StartSource]:
    """Return the instant of a recording's first sample and who says so.

    Args:
        path: the file; its name is asked first.
        date_tag: the DATE tag (of WAV, ICRD), where there is one; used if it holds a time.
        duration_s: of the recording.
        zone: of names and tags that name none.

    Raises:
        OSError: the file is gone.
    """
    named = named_start(path.stem, zone)
    if named is not None:
        return named, StartSource.NAME
    tagged = tagged_start(date_tag, zone)
    if tagged is not None:
        return tagged, StartSource.TAG
    ended_at = path.stat().st_mtime_ns // 1_000
    return ended_at - round(duration_s * US_PER_S), StartSource.FILE_TIME


def named_start(stem: str, zone: ZoneInfo) -> int | None:
    """Return the instant that a file name (without suffix) tells, or None."""
    if HEX_NAMED.fullmatch(stem):
        return int(stem, 16) * US_PER_S
    for match in NAMED.finditer(stem):
        digits = re.sub(r"\D", "", match["date"] + match["time"])
        try:
            moment = datetime.strptime(digits, "%Y%m%d%H%M%S")
        except ValueError:
            continue  # digits, but no date: the 31st of June, 25 o'clock
        moment += timedelta(seconds=float(match["fraction"] or 0))
        return instant_of(moment.replace(tzinfo=_zone(match["zone"]) or zone))
    return None


def tagged_start(tag: str, zone: ZoneInfo) -> int | None:
    """Return the instant that a DATE tag tells, or None where it holds no time of day."""
    if ":" not in tag:
        return None  # a year or a date: midnight would be a lie
    try:
        return parse_instant(tag.strip(), zone)
    except ValueError:
        return None


def _zone(text: str | None) -> tzinfo | None:
    return datetime.strptime(text.upper(), "%z").tzinfo if text else None
