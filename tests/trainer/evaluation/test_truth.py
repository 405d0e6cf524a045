"""A table is read as far as it can be, and what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.data.recordings import DataError, Recording
from trainer.evaluation.truth import BACKGROUND, UNKNOWN, Annotation, read_truth, targets_of


def folder_with(folder: Path, text: str, name: str = "recordings.csv") -> Path:
    """Write one table into a folder; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_two_columns_are_enough(tmp_path: Path) -> None:
    """File and scientific name make a recording; nothing else need be there."""
    folder = folder_with(tmp_path, "file,scientific_name\na.wav,Parus major\nb.wav,\n")
    truth = read_truth(folder)
    assert [(r.file, r.scientific_name) for r in truth.recordings] == [
        ("a.wav", "Parus major"),
        ("b.wav", ""),
    ]
    assert truth.recordings[0].path == tmp_path / "a.wav"


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile;scientific_name\r\na.wav;Parus major\r\n",
        "File\tScientific_Name\na.wav\tParus_major\n",
        "scientific_name,file,fold,odd\nParus major,a.wav,sealed\n",
        "file,species\na.wav,  Parus   major \n",
        "file;species;notes, as, they, came\na.wav;Parus major;two, three\n",
        'file,species,notes\ra.wav,Parus major,"two\rlines"\r',
        '\n\r\n"scientific_name", "file"\n"Parus major", "a.wav"\n',
        "\tfile\tlicence\tscientific_name\n0\ta.wav\t\tParus major\n",
    ],
)
def test_tables_of_other_hands_are_read(tmp_path: Path, text: str) -> None:
    """Semicolons, tabs, capitals, old line ends, empty lines before, spaces between, a fold that is
    no number: the same recording.
    """
    (recording,) = read_truth(folder_with(tmp_path, text)).recordings
    assert (recording.file, recording.scientific_name, recording.fold) == (
        "a.wav",
        "Parus major",
        None,
    )


def test_letters_of_another_encoding_cost_nothing(tmp_path: Path) -> None:
    """A recordist's name in cp1252 or UTF-16 is read as it was meant."""
    text = "file,scientific_name,recordist\na.wav,Parus major,Jürgen\n"
    (tmp_path / "recordings.csv").write_bytes(text.encode("cp1252"))
    assert read_truth(tmp_path).recordings[0].recordist == "Jürgen"
    (tmp_path / "recordings.csv").write_bytes(text.encode("utf-16"))
    assert read_truth(tmp_path).recordings[0].recordist == "Jürgen"


def test_a_flawed_row_costs_itself(tmp_path: Path) -> None:
    """A row without file and a file of two species are skipped with the reason; others count."""
    text = "file,scientific_name\n,Parus major\na.wav,Pica pica;Parus major\nb.wav,Pica pica\n"
    truth = read_truth(folder_with(tmp_path, text))
    assert [r.file for r in truth.recordings] == ["b.wav"]
    assert dict(truth.skipped) == {
        "recordings.csv, line 2": "names no file",
        "a.wav": "names several species (Parus major, Pica pica): put them into events.csv",
    }


def test_a_file_in_several_rows_is_one_recording(tmp_path: Path) -> None:
    """Rows of a file count once, and two species in two rows are two species."""
    text = "file,scientific_name\na.wav,Pica pica\na.wav,Pica pica\nb.wav,Pica pica\nb.wav,Sitta\n"
    truth = read_truth(folder_with(tmp_path, text))
    assert [r.file for r in truth.recordings] == ["a.wav"]


def test_background_by_any_of_its_names(tmp_path: Path) -> None:
    """Tables write silence in several ways; none of them is a species."""
    text = "file,scientific_name\na,no bird\nb,None\nc,Background\nd,nan\n"
    assert {r.scientific_name for r in read_truth(folder_with(tmp_path, text)).recordings} == {""}
    text = "file,content\nrain.wav,rain\n"
    other = folder_with(tmp_path / "background", text, "background.csv")
    assert read_truth(other).recordings[0].scientific_name == ""


def test_names_find_their_label(tmp_path: Path) -> None:
    """Case does not matter, a subspecies is its species, and what is left over is unknown."""
    names = ["PARUS MAJOR", "Turdus merula merula", "Pica pica", "", "Parus"]
    recordings = [Recording(tmp_path, str(i), name) for i, name in enumerate(names)]
    assert targets_of(recordings, ["Turdus merula", "Parus major"]) == [
        1,
        0,
        UNKNOWN,
        BACKGROUND,
        UNKNOWN,
    ]


def test_events_are_read_with_their_times(tmp_path: Path) -> None:
    """A file's calls, and one that holds none; a file of which a call has no times is left out.

    What the station tells of that call would count as false.
    """
    folder = folder_with(tmp_path, "file,scientific_name\na.wav,Parus major\n")
    rows = "a.wav,Parus major,0.5,2\nb.wav,,,\nc.wav,Pica pica,1,2\nc.wav,Pica pica,3,2\n"
    folder_with(tmp_path, "file,scientific_name,start_s,end_s\n" + rows, "events.csv")
    truth = read_truth(folder)
    assert truth.annotations == {
        tmp_path / "a.wav": (Annotation("Parus major", 0.5, 2.0),),
        tmp_path / "b.wav": (),
    }
    reason = "its times are no times in seconds: no event of c.wav is judged"
    assert truth.skipped == (("events.csv, line 5", reason),)


@pytest.mark.parametrize(
    "text", ["", "file,scientific_name,start_s,end_s\n", "path,start_s\nx,1\n", "file\na.wav\n"]
)
def test_events_that_cannot_be_read_cost_themselves(tmp_path: Path, text: str) -> None:
    """The recordings are judged, and it is said why the events are not."""
    folder_with(tmp_path, "file,scientific_name\na.wav,Parus major\n")
    truth = read_truth(folder_with(tmp_path, text, "events.csv"))
    assert (len(truth.recordings), truth.annotations) == (1, {})
    assert [name for name, _ in truth.skipped] == ["events.csv"]


@pytest.mark.parametrize("columns", ["onset,offset", "start_s,end_s"])
def test_times_in_the_table_itself_are_events(tmp_path: Path, columns: str) -> None:
    """Where no events.csv stands beside, rows with times are calls."""
    text = f"file,scientific_name,{columns}\na.wav,Pica pica,1,2\na.wav,Parus major,3,4\n"
    truth = read_truth(folder_with(tmp_path, text))
    assert len(truth.annotations[tmp_path / "a.wav"]) == 2
    assert truth.recordings == ()


def test_one_fold_is_read(tmp_path: Path) -> None:
    """Recordings and events of the other folds stay out."""
    folder = folder_with(tmp_path, "file,scientific_name,fold\na,Pica pica,0\nb,Pica pica,1\n")
    rows = "file,scientific_name,start_s,end_s\na,Pica pica,0,1\nb,Pica pica,0,1\n"
    truth = read_truth(folder_with(folder, rows, "events.csv"), fold=1)
    assert [r.file for r in truth.recordings] == ["b"]
    assert list(truth.annotations) == [tmp_path / "b"]


def test_folders_named_by_species_need_no_table(tmp_path: Path) -> None:
    """Turdus_merula/song.ogg says what it is, and so does Background/rain.ogg."""
    for name in ("Turdus_merula", "Background", "no_bird"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "song.ogg").touch()
    found = {r.file: r.scientific_name for r in read_truth(tmp_path).recordings}
    assert found == {
        "Turdus_merula/song.ogg": "Turdus merula",
        "Background/song.ogg": "",
        "no_bird/song.ogg": "",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'file' or no rows"),
        ("name\nx\n", "no column 'file'"),
        ("file,scientific_name\n", "no rows"),
        ("file,scientific_name\n,Pica pica\n", "names no recording"),
        ("file,name\na.wav,Pica pica\n", "no column 'scientific_name'; it has file, name"),
    ],
)
def test_a_table_of_nothing_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    """The folder is named, and what it lacks."""
    with pytest.raises(DataError, match=said):
        read_truth(folder_with(tmp_path, text))


def test_a_folder_of_nothing_is_an_error(tmp_path: Path) -> None:
    """No folder, no table, no such fold: each has its line."""
    with pytest.raises(DataError, match="is no folder"):
        read_truth(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds none of recordings\.csv"):
        read_truth(tmp_path)
    with pytest.raises(DataError, match="fold 3 holds no recording"):
        read_truth(folder_with(tmp_path, "file,scientific_name,fold\na,Pica pica,0\n"), fold=3)
