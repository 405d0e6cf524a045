"""What the trainer's commands say in one line instead of a traceback."""

from __future__ import annotations

from fieldstation.errors import MendableError

MISTAKES = (MendableError, ValueError, OSError)
"""Of data, of an order, of a disk; `DataError` and `OrderError` are among them"""


def in_words(error: Exception) -> str:
    """Return a mistake in a line; of what a disk refuses: which file, why, and the mend."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: name another place, or make room"
    return str(error)
