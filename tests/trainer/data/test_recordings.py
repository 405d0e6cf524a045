"""Manifests are read, and what is wrong with one is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.recordings import species_rows, write_folder
from trainer.data.recordings import (
    DataError,
    content_hash,
    held_out,
    read_recordings,
    refuse_empty_classes,
    species_of,
)


def test_rows_keep_licence_and_recordist(tmp_path: Path) -> None:
    """What a manifest knows travels with the recording."""
    found = read_recordings(write_folder(tmp_path, species_rows()))
    assert len(found) == 8
    first = found[0]
    assert first.path.is_file()
    assert (first.scientific_name, first.fold, first.licence) == (
        "Turdus merula",
        0,
        "CC BY-NC-SA 4.0",
    )
    assert first.recordist == "Recordist 0"
    assert species_of(found) == (("Parus major", "Great Tit"), ("Turdus merula", "Blackbird"))


def test_species_folders_need_no_manifest(tmp_path: Path) -> None:
    """A folder a species is data enough; folds come from names and do not change."""
    for name in ("Turdus_merula", "Parus_major"):
        write_folder(tmp_path / name, [{"file": "one.wav", "frequency": 2000}], "unused.txt")
    found = read_recordings(tmp_path)
    assert [r.scientific_name for r in found] == ["Parus major", "Turdus merula"]
    assert found == read_recordings(tmp_path)
    assert all(r.fold in range(5) for r in found)


def test_tiers_choose_rows(tmp_path: Path) -> None:
    """Only the named licence tiers are kept, and rows without a tier."""
    rows = [*species_rows(), {"file": "free.wav", "scientific_name": "Parus major"}]
    found = read_recordings(write_folder(tmp_path, rows), tiers={"B"})
    assert {r.licence_tier for r in found} == {"B", ""}


def test_an_unknown_class_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt species is refused with the label that was meant."""
    rows = [{"file": "a.wav", "scientific_name": "Turdus merulla"}]
    with pytest.raises(DataError, match=r"'Turdus merulla': did you mean 'Turdus merula'\?"):
        read_recordings(write_folder(tmp_path, rows), labels=["Turdus merula", "Parus major"])


@pytest.mark.parametrize("column", ["file", "xeno_canto_id"])
def test_a_recording_in_two_folds_is_refused(tmp_path: Path, column: str) -> None:
    """The same file, or another cut of the same xeno-canto recording, is not on both sides."""
    rows = [
        {"file": "a.wav", "scientific_name": "Parus major", "fold": 0, "xeno_canto_id": "7"},
        {"file": "b.wav", "scientific_name": "Parus major", "fold": 1, "xeno_canto_id": "8"},
    ]
    rows[1][column] = rows[0][column]
    with pytest.raises(DataError, match="stands in folds 0, 1"):
        read_recordings(write_folder(tmp_path, rows))


def test_an_empty_class_is_refused() -> None:
    """A label that nothing teaches is named."""
    with pytest.raises(DataError, match="'Falco tinnunculus' has no recording to train on"):
        refuse_empty_classes(["Parus major", "Falco tinnunculus"], {"Parus major"}, "to train on")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nx.wav\n", "no column 'file'"),
        ("file,fold\n,1\n", "line 2: file is empty"),
        ("file,fold\nx.wav,first\n", "line 2: fold is 'first'"),
        ("file\n", "names no recordings"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """What is wrong is said with the line it stands in."""
    (tmp_path / "recordings.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_recordings(tmp_path)


def test_a_manifest_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """A recordist's name is kept with the weights: it must not be guessed."""
    text = "file,scientific_name,recordist\na.wav,Parus major,Jürgen\n"
    (tmp_path / "recordings.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match=r"recordings\.csv is no table: .* save it as CSV in UTF-8"):
        read_recordings(tmp_path)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    """A missing folder is named."""
    with pytest.raises(DataError, match="is no folder"):
        read_recordings(tmp_path / "absent")


def test_the_content_hash_sees_bytes_labels_and_folds_only(tmp_path: Path) -> None:
    """Order does not change the hash; a label, a fold or a sample does."""
    found = read_recordings(write_folder(tmp_path, species_rows()))
    before = content_hash(found)
    assert content_hash(reversed(found)) == before
    found[0].path.write_bytes(found[1].path.read_bytes())
    assert content_hash(found) != before


def test_the_held_out_share_only_grows(tmp_path: Path) -> None:
    """Who is held out at a share stays so at a larger one: nothing trained on slips in."""
    found = read_recordings(write_folder(tmp_path, species_rows(40)))
    small = {r.file for r in found if held_out(r, 0.3)}
    large = {r.file for r in found if held_out(r, 0.7)}
    assert small < large
    assert 8 < len(small) < 40
