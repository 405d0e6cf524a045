"""Lists of labels are read as others write them, or refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldstation.bundle import BundleError
from fieldstation.label_lists import only_species, read_labels
from fieldstation.records import Label, LabelKind

LABELS = (
    Label("Fringilla coelebs", "Chaffinch"),
    Label("Parus major", "Great Tit"),
    Label("Noise", "Noise", LabelKind.NO_BIRD),
)


def write(path: Path, text: str) -> Path:
    """Write a text file; return it."""
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "Fringilla coelebs_Chaffinch\nParus major_Great Tit\n\nNoise_Noise\n"),
        (
            "a.txt",
            "\ufeffFringilla coelebs\tChaffinch\r\n Parus  major_Great\u2028Tit\nNoise_Noise",
        ),
        (
            "a.csv",
            "scientific_name,common_name,kind\nFringilla coelebs,Chaffinch,\n"
            "Parus major,Great Tit,species\nNoise,,no_bird\n",
        ),
        (
            "a.CSV",
            "\ufeffidx;sci_name;com_name;kind\n0;Fringilla coelebs;Chaffinch;\n"
            "1;Parus major;Great Tit;\n2;Noise;Noise;no_bird\n",
        ),
    ],
)
def test_the_usual_forms_give_the_same_labels(tmp_path: Path, name: str, text: str) -> None:
    """BirdNET's lines, tabs, tables with either names of the columns; odd spaces are one space."""
    if "\u2028" in text:
        text = text.replace("\u2028", "\u00a0")
    assert read_labels(write(tmp_path / name, text)) == LABELS


def test_a_name_alone_is_a_species(tmp_path: Path) -> None:
    """A plain list has no common names: the scientific one stands for both."""
    labels = read_labels(write(tmp_path / "labels.txt", "Turdus merula\nPica pica\n"))
    assert labels == (Label("Turdus merula", "Turdus merula"), Label("Pica pica", "Pica pica"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.txt", "\n\n", "holds no labels"),
        ("labels.txt", "Parus major\n_Great Tit\n", "line 2 is '_Great Tit': it names nothing"),
        ("labels.txt", "Pica pica\nSitta\nPica pica\n", "line 3: 'Pica pica' stands in line 1 too"),
        ("labels.csv", "birds\nFringilla coelebs\n", "line 2 has no scientific_name"),
        ("labels.csv", "scientific_name,kind\na,frog\n", "'frog' is not a valid LabelKind"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The file, the line and what is wrong with it are named."""
    with pytest.raises(BundleError, match=message):
        read_labels(write(tmp_path / name, text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    """A file that is gone, and one of another encoding."""
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        read_labels(tmp_path / "gone.txt")
    (tmp_path / "old.txt").write_bytes("Turdus merula_Amsel für".encode("cp1252"))
    with pytest.raises(BundleError, match="is no UTF-8 text"):
        read_labels(tmp_path / "old.txt")


def test_a_range_keeps_its_species_and_makes_the_rest_another_bird(tmp_path: Path) -> None:
    """Names alone or as labels; what is no species stays so; unknown names are passed over."""
    listed = write(tmp_path / "here.txt", "parus major\nSitta europaea_Nuthatch\n")
    assert [label.kind for label in only_species(LABELS, listed)] == [
        LabelKind.UNKNOWN_BIRD,
        LabelKind.SPECIES,
        LabelKind.NO_BIRD,
    ]


def test_a_range_of_none_of_the_labels_is_refused(tmp_path: Path) -> None:
    """A list of misspelt names would silence the station."""
    with pytest.raises(BundleError, match="none of the model's 3 labels; the nearest"):
        only_species(LABELS, write(tmp_path / "here.txt", "Parus majr\n"))
