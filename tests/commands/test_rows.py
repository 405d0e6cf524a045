"""Rows for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fieldstation.commands.rows import RowsError, write_rows

ROWS = [
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


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One line, no traceback."""
    with pytest.raises(RowsError, match=r"none/x\.csv"):
        write_rows(ROWS, COLUMNS, "csv", str(tmp_path / "none" / "x.csv"))
