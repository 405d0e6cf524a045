"""Accuracy by who recorded: a voice, a microphone and a garden that training knew are easier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldstation.bundle import Bundle
from trainer.data.recordings import Recording
from trainer.evaluation.hearing import Bools, Floats, Heard, Ints
from trainer.evaluation.measures import is_right, ratio, share, with_interval

NOTICE_LIST = re.compile(r"^Recordists \(.*\):\n(.*)$", re.MULTILINE)
"""How a bundle's NOTICE names them, in one line, with semicolons between"""


def by_recordist(
    bundle: Bundle, heard: Heard, recordings: Sequence[Recording]
) -> dict[str, Any] | None:
    """Return accuracy for recordists that the bundle names, others, and where none is stated.

    None where the folder names no recordist of a recording of a known species. The interval
    `over_recordists` draws recordists, not recordings: those of one are not independent.
    """
    names = np.array([r.recordist.strip() for r in recordings])
    known = (heard.target >= 0) & (names != "")
    if not known.any():
        return None
    right, trained_with = is_right(heard), recordists_of(bundle)
    seen = np.array([name.casefold() in trained_with for name in names])
    unstated = (heard.target >= 0) & (names == "")
    people, person = np.unique(names[known], return_inverse=True)
    return {
        "seen": group(right, known & seen, names),
        "unseen": group(right, known & ~seen, names),
        "not_stated": group(right, unstated, names),
        "over_recordists": _over_people(right[known], person, len(people)),
    }


def recordists_of(bundle: Bundle) -> frozenset[str]:
    """Return the recordists that a bundle names, casefolded: in its card, else in its NOTICE."""
    listed = bundle.trained_on.get("recordists")
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        return frozenset(str(name).strip().casefold() for name in listed)
    notice = bundle.path / "NOTICE"
    text = notice.read_text(encoding="utf-8", errors="replace") if notice.is_file() else ""
    found = NOTICE_LIST.search(text)
    names = found.group(1).split(";") if found else []
    return frozenset(name.strip().casefold() for name in names if name.strip())


def group(right: Bools, rows: Bools, names: np.ndarray) -> dict[str, Any]:
    """Return the accuracy of some recordings, and of how many people they are."""
    return {
        "n_recordings": int(rows.sum()),
        "n_recordists": len(set(names[rows]) - {""}),
        **share("recording_top1", right & rows, rows),
    }


def _over_people(right: Bools, person: Ints, n_people: int) -> dict[str, Any]:
    """Return the accuracy with an interval over draws of recordists."""
    n = np.bincount(person, minlength=n_people)
    hits = np.bincount(person, weights=right, minlength=n_people)

    def statistic(count: Floats) -> float:
        return ratio(count @ hits, count @ n)

    return {"n_recordists": n_people, **with_interval("recording_top1", statistic, n_people)}
