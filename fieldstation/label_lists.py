"""Lists of labels as others write them: text, one a line, or a table."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fieldstation.bundle import BundleError
from fieldstation.records import Label, LabelKind

SCIENTIFIC_COLUMNS = ("scientific_name", "sci_name", "species")
COMMON_COLUMNS = ("common_name", "com_name")


def read_labels(path: Path) -> tuple[Label, ...]:
    """Return the labels of a file, in its order.

    A `.csv` is a table with the column scientific_name (or sci_name, species) and, if wanted,
    common_name (or com_name) and kind. Anything else is text: a line `Scientific name_Common
    name` each, or a name alone; a label whose two names are the same, such as Engine_Engine, is
    no species.

    Raises:
        BundleError: it cannot be read, a line is no label, or a label stands there twice.
    """
    text = _read(path)
    try:
        rows = list(_table(text) if path.suffix.lower() == ".csv" else _lines(text))
    except (ValueError, csv.Error) as error:
        raise BundleError(f"{path} is no list of labels: {error}") from error
    if not rows:
        raise BundleError(f"{path} holds no labels: a line `Scientific name_Common name` each")
    _refuse_twins(path, rows)
    return tuple(label for _, label in rows)


def only_species(labels: Sequence[Label], path: Path) -> tuple[Label, ...]:
    """Return labels of which only the species that a list names can become events.

    The others are another bird: they are heard, and told from the species, but make no event. A
    list names a species as `read_labels` has it, or by its scientific name alone.

    Raises:
        BundleError: the list cannot be read, or names none of the labels.
    """
    wanted = {label.scientific_name.casefold() for label in read_labels(path)}
    known = {label.scientific_name.casefold() for label in labels}
    if not wanted & known:
        name = min(wanted)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; the nearest to {name!r} is {near[0]!r}" if near else ""
        raise BundleError(f"{path} names none of the model's {len(labels)} labels{hint}")
    return tuple(_kept(label, wanted) for label in labels)


def strangers(labels: Sequence[Label], path: Path) -> list[str]:
    """Return the names of a list that are none of the labels': misspelt, or unknown to the model.

    Raises:
        BundleError: the list cannot be read.
    """
    known = {label.scientific_name.casefold() for label in labels}
    names = [label.scientific_name for label in read_labels(path)]
    return [name for name in names if name.casefold() not in known]


def _kept(label: Label, wanted: Iterable[str]) -> Label:
    if label.kind is not LabelKind.SPECIES or label.scientific_name.casefold() in wanted:
        return label
    return replace(label, kind=LabelKind.UNKNOWN_BIRD)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}: name a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is no UTF-8 text ({error.reason}): save it as UTF-8") from error


def _lines(text: str) -> Iterator[tuple[int, Label]]:
    """Yield (line, label) of text."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        scientific, _, common = line.replace("\t", "_").partition("_")
        name, common_name = _tidy(scientific), _tidy(common)
        if not name:
            raise ValueError(f"line {number} is {line!r}: it names nothing")
        kind = LabelKind.NO_BIRD if name == common_name else LabelKind.SPECIES
        yield number, Label(name, common_name or name, kind)


def _table(text: str) -> Iterator[tuple[int, Label]]:
    """Yield (line, label) of a table with commas, semicolons or tabs."""
    lines = text.splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter), start=2):
        name = _tidy(_first(row, SCIENTIFIC_COLUMNS))
        if not name:
            raise ValueError(f"line {number} has no scientific_name")
        kind = LabelKind(row.get("kind") or LabelKind.SPECIES)
        yield number, Label(name, _tidy(_first(row, COMMON_COLUMNS)) or name, kind)


def _first(row: Mapping[str, str | None], columns: Sequence[str]) -> str:
    return next((text for column in columns if (text := row.get(column))), "")


def _tidy(name: str) -> str:
    """Return a name in one line, without what cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def _refuse_twins(path: Path, rows: Sequence[tuple[int, Label]]) -> None:
    first: dict[str, int] = {}
    for number, label in rows:
        before = first.setdefault(label.scientific_name, number)
        if before != number:
            raise BundleError(
                f"{path}, line {number}: {label.scientific_name!r} stands in line {before} too: "
                "each label has one name of its own"
            )
