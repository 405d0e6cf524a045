"""Rows for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import weakref
from collections import UserDict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fieldstation.commands import detections
from fieldstation.commands import rows as commands_rows
from fieldstation.commands.rows import RowsError, write_rows
from fieldstation.records import Detection
from fieldstation.store.errors import StoreError

ROWS: list[dict[str, object]] = [
    {"species": "Fringilla coelebs", "probability": 0.912345, "place": None},
    {"species": 'Great "Tit", London', "probability": 1.0, "place": "hedge"},
]
COLUMNS = ["species", "probability", "place"]


def test_a_table_is_aligned_and_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    """People read two decimals; an absent value is empty."""
    assert write_rows(ROWS, COLUMNS, "table") == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Fringilla coelebs    0.91"
    assert lines[0].index("probability") == lines[2].index("1.00")


def test_jsonl_and_csv_keep_every_digit(capsys: pytest.CaptureFixture[str]) -> None:
    """What a program reads back is what was there."""
    write_rows(ROWS, COLUMNS, "jsonl")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
    write_rows(ROWS, COLUMNS, "csv")
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read[0] == {"species": "Fringilla coelebs", "probability": "0.912345", "place": ""}
    assert read[1]["species"] == ROWS[1]["species"]


def test_parquet_is_read_back(tmp_path: Path) -> None:
    """Parquet needs a file and keeps types."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    with pytest.raises(RowsError, match="--output"):
        write_rows(ROWS, COLUMNS, "parquet")
    assert write_rows(ROWS, COLUMNS, "parquet", str(tmp_path / "rows.parquet")) == 2
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == ROWS


def test_parquet_never_holds_the_whole_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is on its way to the file when the next is read; a column may be empty in one."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr(commands_rows, "PARQUET_BATCH", 2)
    alive: weakref.WeakSet[Heard] = weakref.WeakSet()
    most = 0

    def heard() -> Iterator[Heard]:
        nonlocal most
        for number in range(20):
            row = Heard(species="Parus major", place="hedge" if number > 10 else None, n=number)
            alive.add(row)
            most = max(most, len(alive))
            yield row

    output = str(tmp_path / "rows.parquet")
    assert write_rows(heard(), ["species", "place", "n"], "parquet", output) == 20
    assert most <= 5
    read = parquet.read_table(output)
    assert read.column("n").to_pylist() == list(range(20))
    assert read.column("place").to_pylist()[-1] == "hedge"


class Heard(UserDict[str, object]):
    """A row that can be watched."""

    __hash__ = object.__hash__


def test_parquet_that_is_broken_off_leaves_no_file(tmp_path: Path) -> None:
    """It would read as the whole answer."""
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

    def broken() -> Iterator[dict[str, object]]:
        yield ROWS[0]
        raise StoreError("the log cannot be read")

    with pytest.raises(StoreError):
        write_rows(broken(), COLUMNS, "parquet", str(tmp_path / "rows.parquet"))
    assert list(tmp_path.iterdir()) == []


def test_every_column_of_every_answer_has_its_kind() -> None:
    """Parquet is told before the first row what a column holds."""
    d = {field.name: str(field.type) for field in fields(Detection)}
    for name in {*detections.COLUMNS, *detections.MORE_COLUMNS} & set(d):
        assert (name in commands_rows.WHOLE_NUMBERS) == d[name].startswith("int") or "_at" in name
        assert (name in commands_rows.NUMBERS) == d[name].startswith("float"), name


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One line, no traceback."""
    with pytest.raises(RowsError, match=r"none/x\.csv"):
        write_rows(ROWS, COLUMNS, "csv", str(tmp_path / "none" / "x.csv"))
