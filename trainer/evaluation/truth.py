"""What a folder says is in its recordings.

Read so that a flaw in one row costs that row: it is skipped and counted, with the reason, since a
measurement that stops at row 900 measures nothing. `trainer.data.recordings`, which training
reads with, refuses instead.

    recordings.csv   file, scientific_name; recordist, licence, fold, … where they are known
    events.csv       file, scientific_name, start_s, end_s: each bird heard, in files where all are
                     named; a row without species says that the file was listened to and holds none

Without events.csv, rows of recordings.csv that have times are its events.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.data.recordings import AUDIO_SUFFIXES, DataError, Recording, read_recordings

TABLES = ("recordings.csv", "background.csv", "soundscapes.csv")
EVENTS = "events.csv"
UNKNOWN, BACKGROUND = -1, -2
"""Targets of a recording that is none of the labels"""
NO_SPECIES = frozenset({"", "no bird", "background", "none", "nan", "noise", "silence", "-"})
"""What tables write where there is no bird, casefolded"""
SPECIES_COLUMNS = ("scientific_name", "species", "scientific name")
START_COLUMNS = ("start_s", "onset_s", "onset", "start")
END_COLUMNS = ("end_s", "offset_s", "offset", "end")
TIMES = ("start_s", "end_s", "onset_s", "offset_s", "onset", "offset")
"""Of a call, in whatever table; `start` and `end` may be a recording's hours there"""

Row = dict[str, str]
Skipped = tuple[str, str]
"""File, and why it does not count"""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A bird that a person heard in a file."""

    scientific_name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What is said to be in a folder's recordings."""

    recordings: tuple[Recording, ...]
    """One a file, of one species or none"""
    annotations: Mapping[Path, tuple[Annotation, ...]] = field(default_factory=dict)
    """Of each file in which every bird of our labels is named with its times"""
    skipped: tuple[Skipped, ...] = ()


def read_truth(folder: Path, fold: int | None = None) -> Truth:
    """Return what a folder, or one fold of it, says.

    Raises:
        DataError: there is no folder, no readable table, or nothing in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name one that holds {TABLES[0]}")
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        return _of_fold(Truth(_species_folders(folder)), folder, fold)
    rows = read_table(table)
    if table.name == TABLES[0]:
        _refuse_nameless(table, rows)
    recordings, skipped = _recordings(folder, table.name, rows)
    annotations, unusable = _annotations(folder, rows)
    return _of_fold(Truth(recordings, annotations, (*skipped, *unusable)), table, fold)


def targets_of(recordings: Iterable[Recording], names: Sequence[str]) -> list[int]:
    """Return which of the names each recording has, or `UNKNOWN` or `BACKGROUND`.

    A name counts whatever its case; one with a third word (a subspecies, or a common name put
    behind) as its first two, unless it is there whole.
    """
    place = {name.casefold(): index for index, name in enumerate(names)}

    def target(name: str) -> int:
        if not name:
            return BACKGROUND
        whole = name.casefold()
        return place.get(whole, place.get(" ".join(whole.split()[:2]), UNKNOWN))

    return [target(recording.scientific_name) for recording in recordings]


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table with commas, semicolons or tabs, column names in lower case.

    Raises:
        DataError: it cannot be read, or has no column `file`.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = io.StringIO(_text(raw).lstrip("\r\n"), newline=None).readlines()
    delimiter = _delimiter(lines)
    table = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=delimiter != "\t")
    try:
        rows = [_tidy(row) for row in table]
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}") from error
    if not rows or "file" not in rows[0]:
        columns = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(f"{path} has no column 'file' or no rows; it has {columns}")
    return rows


def _text(raw: bytes) -> str:
    """Return a table's text, in whichever of the usual encodings it was saved."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _delimiter(lines: Sequence[str]) -> str:
    """Return what stands between the names of the columns, one of which is `file`."""
    head = lines[0].lower() if lines else ""

    def fit(delimiter: str) -> tuple[bool, int]:
        names = [name.strip().strip('"') for name in head.split(delimiter)]
        return "file" in names, len(names)

    return max(",;\t", key=fit)


def _refuse_nameless(path: Path, rows: Sequence[Row]) -> None:
    """Refuse a table without a column for species: all of it would hold no bird."""
    if not set(SPECIES_COLUMNS) & set(rows[0]):
        raise DataError(f"{path} has no column 'scientific_name'; it has {', '.join(rows[0])}")


def _tidy(row: Mapping[str | None, str | list[str] | None]) -> Row:
    return {
        key.strip().lower(): value.strip() if isinstance(value, str) else ""
        for key, value in row.items()
        if isinstance(key, str)
    }


def _first(row: Row, columns: Sequence[str]) -> str:
    """Return the first of some columns that the row fills."""
    return next((row[column] for column in columns if row.get(column)), "")


def _species(row: Row) -> frozenset[str]:
    """Return the species that a row names; several stand with ; or | between them."""
    names = re.split(r"[;|]", _first(row, SPECIES_COLUMNS))
    tidy = (" ".join(name.replace("_", " ").split()) for name in names)
    return frozenset(name for name in tidy if name.casefold() not in NO_SPECIES)


def _recordings(
    folder: Path, table: str, rows: Sequence[Row]
) -> tuple[tuple[Recording, ...], list[Skipped]]:
    """Return one recording a file; a file in which several species are named is none."""
    first: dict[str, Row] = {}
    species: dict[str, frozenset[str]] = {}
    skipped: list[Skipped] = []
    for number, row in enumerate(rows, start=2):
        if not (file := row["file"]):
            skipped.append((f"{table}, line {number}", "names no file"))
            continue
        first.setdefault(file, row)
        species[file] = species.get(file, frozenset()) | _species(row)
    skipped += [(f, _several(names)) for f, names in species.items() if len(names) > 1]
    found = [
        _recording(folder, row, next(iter(species[file]), ""))
        for file, row in first.items()
        if len(species[file]) <= 1
    ]
    return tuple(found), skipped


def _several(names: Iterable[str]) -> str:
    return f"names several species ({', '.join(sorted(names))}): put them into {EVENTS}"


def _recording(folder: Path, row: Row, scientific_name: str) -> Recording:
    fold = row.get("fold", "")
    kept = ("common_name", "licence", "licence_tier", "recordist", "xeno_canto_id", "origin")
    return Recording(
        path=folder / row["file"],
        file=row["file"],
        scientific_name=scientific_name,
        fold=int(fold) if fold.isdecimal() else None,
        **{name: row.get(name, "") for name in kept},
    )


def _annotations(
    folder: Path, rows: Sequence[Row]
) -> tuple[dict[Path, tuple[Annotation, ...]], list[Skipped]]:
    """Return the events of events.csv, else those of the table itself where its rows have times."""
    path = folder / EVENTS
    if path.is_file():
        try:
            events = read_table(path)
            _refuse_nameless(path, events)
        except DataError as error:
            return {}, [(EVENTS, str(error))]
        return _collect(folder, EVENTS, events, lambda _: True)
    return _collect(folder, "the table", rows, lambda row: bool(_first(row, TIMES)))


def _collect(
    folder: Path, table: str, rows: Sequence[Row], is_event: Callable[[Row], bool]
) -> tuple[dict[Path, tuple[Annotation, ...]], list[Skipped]]:
    """Return each file's events; a file with one that cannot be read is not judged by the rest."""
    found: dict[Path, list[Annotation]] = {}
    flawed: set[Path] = set()
    skipped: list[Skipped] = []
    for number, row in enumerate(rows, start=2):
        if not row["file"] or not is_event(row):
            continue
        path = folder / row["file"]
        of_file = found.setdefault(path, [])
        for name in _species(row):
            start_s = _seconds(_first(row, START_COLUMNS))
            end_s = _seconds(_first(row, END_COLUMNS))
            if 0 <= start_s < end_s:
                of_file.append(Annotation(name, start_s, end_s))
            else:
                flawed.add(path)
                reason = f"its times are no times in seconds: no event of {row['file']} is judged"
                skipped.append((f"{table}, line {number}", reason))
    kept = {path: tuple(events) for path, events in found.items() if path not in flawed}
    return kept, skipped


def _seconds(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _species_folders(folder: Path) -> tuple[Recording, ...]:
    """Return the files of folders named by species, Turdus_merula/*.ogg, or by the lack of one."""
    if not any(path.suffix.lower() in AUDIO_SUFFIXES for path in folder.glob("*/*")):
        raise DataError(
            f"{folder} holds none of {', '.join(TABLES)} and no folders of recordings named by "
            "species: say with one of them what is in it"
        )
    return tuple(
        replace(r, scientific_name="") if r.scientific_name.casefold() in NO_SPECIES else r
        for r in read_recordings(folder)
    )


def _of_fold(truth: Truth, where: Path, fold: int | None) -> Truth:
    if fold is not None:
        kept = tuple(r for r in truth.recordings if r.fold == fold)
        others = {r.path for r in truth.recordings if r.fold != fold}
        annotations = {p: events for p, events in truth.annotations.items() if p not in others}
        if not kept:
            raise DataError(f"fold {fold} holds no recording: leave --fold out, or choose another")
        return Truth(kept, annotations, truth.skipped)
    if not truth.recordings and not truth.annotations:
        raise DataError(f"{where} names no recording that could be judged: {truth.skipped[:3]}")
    return truth
