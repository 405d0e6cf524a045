"""Recordings and where they come from: a folder with a CSV manifest, read and checked.

A manifest (`recordings.csv`, `background.csv` or `unlabelled.csv`) has at least the column
`file`; `scientific_name`, `common_name`, `fold`, `licence`, `licence_tier`, `recordist`,
`xeno_canto_id` and `origin` are kept where they are. A folder without one is read as a folder of
species: `Turdus_merula/*.ogg`.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MANIFESTS = ("recordings.csv", "background.csv", "unlabelled.csv")
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus"})
N_FOLDS = 5


class DataError(ValueError):
    """The data cannot be trained on; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One audio file and what is known about it; a text that is not known is empty."""

    path: Path
    file: str
    """Name below its folder, as the manifest has it"""
    scientific_name: str = ""
    """Empty: no bird, or not known"""
    common_name: str = ""
    fold: int | None = None
    licence: str = ""
    licence_tier: str = ""
    recordist: str = ""
    xeno_canto_id: str = ""
    origin: str = ""


def read_recordings(
    folder: Path,
    tiers: Collection[str] | None = None,
    labels: Collection[str] | None = None,
) -> tuple[Recording, ...]:
    """Read a folder's manifest, or its species folders.

    Args:
        tiers: licence tiers to keep; rows that state none are kept. None keeps all.
        labels: scientific names that may occur; None allows any.

    Raises:
        DataError: no folder, no recordings, a bad row, an unknown class, or one recording in two
            folds.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name one that holds {MANIFESTS[0]}")
    manifest = next((folder / name for name in MANIFESTS if (folder / name).is_file()), None)
    found = _from_manifest(manifest) if manifest else _from_species_folders(folder)
    if not found:
        raise DataError(
            f"{manifest or folder} names no recordings: it needs {MANIFESTS[0]} or folders "
            "named by species"
        )
    _refuse_unknown(found, labels, manifest or folder)
    _refuse_split(found, manifest or folder)
    return tuple(r for r in found if tiers is None or not r.licence_tier or r.licence_tier in tiers)


def content_hash(recordings: Iterable[Recording]) -> str:
    """Return the sha256 of the recordings' bytes, labels and folds, whatever their order."""
    lines = sorted(
        f"{file_hash(r.path)} {r.scientific_name} {'' if r.fold is None else r.fold}"
        for r in recordings
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes; of nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return hashlib.sha256(b"").hexdigest()


def held_out(recording: Recording, share: float) -> bool:
    """Return whether a recording belongs to the held-out share, decided by its name alone."""
    digest = hashlib.sha256(recording.file.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def species_of(recordings: Iterable[Recording]) -> tuple[tuple[str, str], ...]:
    """Return (scientific name, common name) of each species, sorted by scientific name."""
    common = {r.scientific_name: r.common_name for r in recordings if r.scientific_name}
    return tuple((name, common[name] or name) for name in sorted(common))


def refuse_empty_classes(names: Sequence[str], present: Collection[str], where: str) -> None:
    """Raise DataError for the first class that has no recording `where`."""
    for name in names:
        if name not in present:
            raise DataError(f"class {name!r} has no recording {where}: add some or drop the class")


def _from_manifest(manifest: Path) -> list[Recording]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "file" not in (rows.fieldnames or ()):
                raise DataError(f"{manifest} has no column 'file'; it has {rows.fieldnames}")
            return [_recording(manifest, number, row) for number, row in enumerate(rows, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest} is no table: {error}: save it as CSV in UTF-8") from error


def _recording(manifest: Path, line: int, row: dict[str, str | None]) -> Recording:
    text = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    if not text["file"]:
        raise DataError(f"{manifest}, line {line}: file is empty: name one or drop the row")
    fold = text.get("fold", "")
    if fold and not fold.isdecimal():
        raise DataError(f"{manifest}, line {line}: fold is {fold!r}; must be 0, 1, 2, …")
    kept = ("scientific_name", "common_name", "licence", "licence_tier", "recordist")
    return Recording(
        path=manifest.parent / text["file"],
        file=text["file"],
        fold=int(fold) if fold else None,
        xeno_canto_id=text.get("xeno_canto_id", ""),
        origin=text.get("origin", ""),
        **{name: text.get(name, "") for name in kept},
    )


def _from_species_folders(folder: Path) -> list[Recording]:
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in AUDIO_SUFFIXES)
    return [_from_file(folder, path) for path in files]


def _from_file(folder: Path, path: Path) -> Recording:
    """Return a recording without a manifest; its fold comes from its name's hash."""
    file = path.relative_to(folder).as_posix()
    fold = int.from_bytes(hashlib.sha256(file.encode()).digest()[:4], "big") % N_FOLDS
    return Recording(path, file, path.parent.name.replace("_", " "), fold=fold)


def _refuse_unknown(
    recordings: Iterable[Recording], labels: Collection[str] | None, where: Path
) -> None:
    for recording in recordings:
        name = recording.scientific_name
        if labels is not None and name and name not in labels:
            near = difflib.get_close_matches(name, labels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(labels))}"
            raise DataError(f"{where}: {recording.file} has unknown class {name!r}: {hint}")


def _refuse_split(recordings: Iterable[Recording], where: Path) -> None:
    """Refuse a recording that stands in two folds, by file name or xeno-canto number."""
    folds: dict[str, set[int | None]] = defaultdict(set)
    for recording in recordings:
        folds[recording.file].add(recording.fold)
        if recording.xeno_canto_id:
            folds[f"XC{recording.xeno_canto_id}"].add(recording.fold)
    for name, found in folds.items():
        if len(found) > 1:
            listed = ", ".join(sorted(map(str, found)))
            raise DataError(f"{where}: {name} stands in folds {listed}: leave it in one")
