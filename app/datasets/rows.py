"""What the readers of all file formats yield: raw rows, and problems in place of unreadable rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from app.errors import InvalidDataset, Problem

# The most characters of one record, which bounds a reader's memory. It is more than the longest context of a million
# tokens needs.
LONGEST_RECORD = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a record. `number` counts records from 1; `line` is its first line, if the file has lines."""

    number: int
    line: int | None


@dataclass(frozen=True, slots=True)
class RawRow:
    """One record as it is in the file. `number` counts records from 1; `line` is its first line.

    Arrow gives every row the keys of all rows: if `is_arrow`, a null may stand for a key that the row never had.
    """

    number: int
    line: int | None
    value: Any
    is_arrow: bool = False


Rows = Iterator[RawRow | Problem]


def unreadable(problem: Problem) -> InvalidDataset:
    """Returns the error for a problem after which the file cannot be read further."""
    return InvalidDataset("the file cannot be read to its end", details=[problem])


def too_long(line: int) -> InvalidDataset:
    found = f"more than {LONGEST_RECORD} characters"
    expected = f"at most {LONGEST_RECORD} characters per record"
    return unreadable(Problem(line=line, code="record_too_long", found=found, expected=expected))


def numbered_lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """Yields line numbers from 1 and lines with their line ends. Raises InvalidDataset for a line that is too long."""
    number = 0
    while line := text.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise too_long(number)
        yield number, line
