"""Reads CSV, TSV and plain text. Every cell stays text: 007 and null are not converted."""

import csv
from collections.abc import Iterator
from typing import TextIO

from app.datasets.rows import LONGEST_RECORD, RawRow, Rows, numbered_lines, unreadable
from app.errors import Problem


def read_table(text: TextIO, delimiter: str) -> Rows:
    """Yields the rows after the header line. Raises InvalidDataset for an invalid header."""
    csv.field_size_limit(LONGEST_RECORD)  # process-wide; the default of 128 KiB is too small for a long answer
    reader = csv.reader((line for _, line in numbered_lines(text)), delimiter=delimiter, strict=True)
    number, columns = 0, _header(reader)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            number += 1
            yield Problem(record=number, line=line, code="invalid_csv", found=str(error), expected="a row of cells")
            continue
        if cells is None:
            return
        if cells:
            number += 1
            yield _row(number, line, columns, cells)


def _row(number: int, line: int, columns: list[str], cells: list[str]) -> RawRow | Problem:
    if len(cells) != len(columns):
        expected = f"{len(columns)} cells, as the header has"
        return Problem(record=number, line=line, code="invalid_csv", found=f"{len(cells)} cells", expected=expected)
    if len(columns) > 1 and [cell.strip() for cell in cells] == columns:  # concatenated tables
        found = "the header line again"
        return Problem(record=number, line=line, code="invalid_csv", found=found, expected="a row of cells")
    return RawRow(number, line, dict(zip(columns, cells, strict=True)))


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        columns = [name.strip() for name in next((cells for cells in reader if cells), [])]
    except csv.Error as error:
        raise unreadable(Problem(line=1, code="invalid_csv", found=str(error), expected="a header line")) from error
    wrong = sorted({name for name in columns if not name or columns.count(name) > 1})
    if wrong:
        found = f"empty or duplicate column names: {wrong!r}"[:200]
        raise unreadable(
            Problem(line=1, code="invalid_header", found=found, expected="a different name for each column")
        )
    return columns


def read_text_lines(text: TextIO) -> Rows:
    """Yields one record with the column `text` for each line that is not blank."""
    number = 0
    for line, content in numbered_lines(text):
        if content.strip():
            number += 1
            yield RawRow(number, line, {"text": content.rstrip("\r\n")})
