"""Rows on standard output: a table for people, JSON lines, CSV or Parquet for programs."""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from fieldstation.errors import MendableError

Row = Mapping[str, object]
FORMATS = ("table", "jsonl", "csv", "parquet")
MEASURED_ROWS = 1_000
"""Column widths come from this many rows, so that a long answer still streams"""
PARQUET_BATCH = 10_000
"""Rows in memory together"""
WHOLE_NUMBERS = {"n", "n_windows", "sequence", "seed", "width", "height", "n_bytes"}
NUMBERS = {
    *("probability", "max_probability", "threshold", "latitude", "longitude"),
    *("seconds", "share", "paint_ms"),
}
"""Columns that are no text: said here, since the first rows may have nothing in one of them"""


class RowsError(MendableError):
    """The rows cannot be written in the form asked for."""


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Add --format and --output."""
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def write_rows(
    rows: Iterable[Row], columns: Sequence[str], form: str, output: str | None = None
) -> int:
    """Write the rows; return how many.

    Args:
        columns: which, in this order; a row without one leaves it empty.
        form: one of `FORMATS`.

    Raises:
        RowsError: Parquet to a terminal or without pyarrow; a file that cannot be written.
    """
    tally = itertools.count()
    counted = (row for row, _ in zip(rows, tally, strict=False))
    if form == "parquet":
        _write_parquet(counted, columns, output)
        return next(tally)
    try:
        with open(output, "w", encoding="utf-8", newline="") if output else _stdout() as file:
            _WRITERS[form](counted, columns, file)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        if output is None:
            raise RowsError(f"standard output: {error.strerror}") from error
        said = f"--output is {output!r}: {error.strerror}: name another file"
        raise RowsError(said) from error
    return next(tally)


def _write_table(rows: Iterable[Row], columns: Sequence[str], file: TextIO) -> None:
    texts = ([_text(row.get(column)) for column in columns] for row in rows)
    first = list(itertools.islice(texts, MEASURED_ROWS))
    widths = [max([len(c), *(len(row[i]) for row in first)]) for i, c in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) for cell, width in zip(cells, widths, strict=True)
        ).rstrip()

    print(line(columns), file=file)
    for row in itertools.chain(first, texts):
        print(line(row), file=file)


def _write_jsonl(rows: Iterable[Row], columns: Sequence[str], file: TextIO) -> None:
    for row in rows:
        print(json.dumps({c: row.get(c) for c in columns}, ensure_ascii=False), file=file)


def _write_csv(rows: Iterable[Row], columns: Sequence[str], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row.get(c) is None else row.get(c) for c in columns])


def _write_parquet(rows: Iterable[Row], columns: Sequence[str], output: str | None) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RowsError(
            "--format parquet needs pyarrow: pip install 'fieldstation[parquet]'"
        ) from error
    if output is None:
        raise RowsError("--format parquet needs a file: add --output FILE")
    kinds = {**dict.fromkeys(WHOLE_NUMBERS, pa.int64()), **dict.fromkeys(NUMBERS, pa.float64())}
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
    try:
        with pq.ParquetWriter(output, schema) as writer, _gone_if_broken_off(output):
            for some in _batches(rows, PARQUET_BATCH):
                writer.write_table(pa.Table.from_pylist(some, schema))
    except OSError as error:
        said = error.strerror or error
        raise RowsError(f"--output is {output!r}: {said}: name another file") from error


@contextlib.contextmanager
def _gone_if_broken_off(output: str) -> Iterator[None]:
    """Remove a file that was not written to its end: it would look whole."""
    try:
        yield
    except BaseException:
        if os.path.isfile(output):
            os.unlink(output)
        raise


def _batches(rows: Iterable[Row], n: int) -> Iterator[list[Row]]:
    left = iter(rows)
    while some := list(itertools.islice(left, n)):
        yield some


def _stdout() -> contextlib.AbstractContextManager[TextIO]:
    return contextlib.nullcontext(sys.stdout)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


_WRITERS: dict[str, Callable[[Iterable[Row], Sequence[str], TextIO], None]] = {
    "table": _write_table,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
