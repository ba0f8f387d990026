"""Reads several files, in order, as one dataset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.datasets.decompress import open_file
from app.datasets.formats import read_rows
from app.datasets.rows import RawRow, Rows
from app.errors import InvalidDataset, Problem


@dataclass(frozen=True)
class NamedFile:
    """A file on this host, and its name for the user."""

    path: Path
    name: str


@dataclass(frozen=True)
class FilePart:
    """The records `start` to `stop` (exclusive; None: to the end) of the files, counted from 0 over all files."""

    files: tuple[NamedFile, ...]
    start: int = 0
    stop: int | None = None


def count_records(files: Sequence[NamedFile], max_unpacked_bytes: int) -> int:
    """Returns the number of records, including damaged ones. Raises InvalidDataset if a file cannot be read."""
    return sum(1 for _ in _rows_of(files, max_unpacked_bytes))


def read_parts(parts: Sequence[FilePart], max_unpacked_bytes: int) -> Rows:
    """Yields the records of all parts, numbered from 1. They have no line, which would be ambiguous.

    Raises InvalidDataset, with the name of the file, if a file cannot be read to its end.
    """
    number = 0
    for part in parts:
        for index, row in enumerate(_rows_of(part.files, max_unpacked_bytes)):
            if part.stop is not None and index >= part.stop:
                break
            if index >= part.start:
                number += 1
                yield _numbered(row, number)


def _numbered(row: RawRow | Problem, number: int) -> RawRow | Problem:
    if isinstance(row, Problem):
        return row.model_copy(update={"record": number, "line": None})
    return replace(row, number=number, line=None)


def _rows_of(files: Sequence[NamedFile], max_unpacked_bytes: int) -> Iterator[RawRow | Problem]:
    for file in files:
        try:
            with open_file(file.path, max_unpacked_bytes) as opened:
                yield from read_rows(opened, file.name, max_unpacked_bytes)[1]
        except InvalidDataset as fault:
            fault.details = [
                each.model_copy(update={"found": f"{each.found} in {file.name}"}) for each in fault.details
            ]
            raise
