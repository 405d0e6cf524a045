"""The bases of errors that are one line for a person: the CLI prints them and exits 2 or 1."""

from __future__ import annotations

import re

_IN_AUTHORITY = re.compile(r"(?<=//)([^:@/\s]*):.*@", re.DOTALL)
_IN_BARE = re.compile(r"^([^:@/\s]*):.*@", re.DOTALL)
_IN_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|passwd|pwd|secret|token)[^=&\s]*=)[^&\s]*")
HIDDEN = "***"


class MendableError(Exception):
    """Config, bundle, database or input that cannot mend itself; the text says what to do."""


class PassingError(MendableError):
    """A disk, lock or server that is not to be had just now: the same command may succeed later.

    It exits 1, after which a supervisor tries again; 2 would end a service for good.
    """


def redacted(url: str) -> str:
    """Return a url, or what was meant to be one, without its passwords.

    Up to the last @: a password may hold a colon, a slash or another @, and one that makes the url
    unreadable is the likeliest to be shown in an error.
    """
    pattern = _IN_AUTHORITY if "//" in url else _IN_BARE
    return _IN_QUERY.sub(rf"\1{HIDDEN}", pattern.sub(rf"\1:{HIDDEN}@", url))
