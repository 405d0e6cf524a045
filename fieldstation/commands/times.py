"""Times as people write them on a command line."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from fieldstation.clock import EPOCH, US_PER_S, instant_of, parse_instant
from fieldstation.errors import MendableError

_AGO = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

MOST_DIGITS = 12

FORMS = "today, yesterday, 2h (ago; m h d w), 2026-05-01, 2026-05-01T04:30 or with Z or an offset"


class TimeError(MendableError):
    """A text that names no time."""


def parse_when(text: str, timezone: str, now: int) -> int:
    """Return the instant that a person's text names.

    Args:
        text: one of `FORMS`; local unless it says otherwise.
        timezone: the station's IANA zone.
        now: the instant now.

    Raises:
        TimeError: none of the forms.
    """
    zone = ZoneInfo(timezone)
    if text in ("today", "yesterday"):
        moment = (EPOCH + timedelta(microseconds=now)).astimezone(zone)
        day = moment.date() - timedelta(days=text == "yesterday")
        return instant_of(datetime.combine(day, time(), zone))
    if ago := re.fullmatch(r"(\d+)([mhdw])", text):
        return _before(now, ago[1], ago[2])
    try:
        return parse_instant(text, zone)
    except ValueError as error:
        raise TimeError(f"{text!r} names no time: write {FORMS}") from error


def _before(now: int, n: str, unit: str) -> int:
    """Return the instant some time before another.

    Raises:
        TimeError: long before there were stations.
    """
    seconds = int(n[:MOST_DIGITS]) * _AGO[unit]
    if len(n) > MOST_DIGITS or seconds * US_PER_S > now:
        raise TimeError(f"{n[:20]}{unit} ago is too far back, before 1970: write a shorter time")
    return now - seconds * US_PER_S
