"""What every reader of a file format yields: raw rows with their place, and problems where a row cannot be read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from app.errors import InvalidDataset, Problem

# Characters of one record, and so of what a reader holds at once: above a million tokens, which is the longest context.
LONGEST_RECORD = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands. `number` counts records from 1, `line` is the line it starts at, if the file has lines."""

    number: int
    line: int | None


@dataclass(frozen=True, slots=True)
class RawRow:
    """One record as the file holds it. `number` counts records from 1, `line` is the line it starts at.

    Arrow gives every row the keys of all others: from there, a null may be a key that the row never had.
    """

    number: int
    line: int | None
    value: Any
    is_arrow: bool = False


Rows = Iterator[RawRow | Problem]


def unreadable(problem: Problem) -> InvalidDataset:
    """A fault behind which nothing more of the file can be read."""
    return InvalidDataset("the file cannot be read to its end", details=[problem])


def too_long(line: int) -> InvalidDataset:
    found = f"more than {LONGEST_RECORD} characters"
    expected = f"at most {LONGEST_RECORD} characters a record"
    return unreadable(Problem(line=line, code="record_too_long", found=found, expected=expected))


def numbered_lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, line ends kept. Raises InvalidDataset on one that is longer than a record may be."""
    number = 0
    while line := text.readline(LONGEST_RECORD + 1):
        number += 1
        if len(line) > LONGEST_RECORD:
            raise too_long(number)
        yield number, line
