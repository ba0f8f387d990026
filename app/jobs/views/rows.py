"""Random access to the rows that a trainer reads. The Arrow stream is mapped; only what is asked for is touched.

A stream has no table of contents, so its batches are walked once and their places are remembered: `record` ascends, and
a row is found by two binary searches.
"""

import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.contracts.rows import CUT, INPUT_IDS, LABELS, RECORD, SUPERVISED


@dataclass(frozen=True)
class RowCounts:
    """One row in numbers. `cut`: tokens that were cut off behind."""

    record: int
    tokens: int
    supervised: int
    cut: int


@dataclass(frozen=True)
class StoredRow:
    """One row as it is learned: `labels` has the id where a token carries loss, and IGNORED elsewhere."""

    record: int
    ids: list[int]
    labels: list[int]
    cut: int


@dataclass
class _Places:
    """Where the batches of one file begin: byte in the file, first record; and how many rows there are."""

    schema: Any
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    records: "array[int]" = field(default_factory=lambda: array("q"))
    rows: int = 0


class RowFile:
    """One set of rows. The file may be deleted while it is open."""

    def __init__(self, path: Path) -> None:
        self._buffer = _mapped(path)
        seen = path.stat()
        self._places = _places(path, seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)

    def __len__(self) -> int:
        return self._places.rows

    def find(self, record: int) -> StoredRow | None:
        for batch, index in self._after(record - 1):
            if batch.column(RECORD)[index].as_py() != record:
                return None
            ids, labels, cut = (batch.column(name)[index].as_py() for name in (INPUT_IDS, LABELS, CUT))
            return StoredRow(record, ids, labels, cut)
        return None

    def after(self, record: int) -> Iterator[RowCounts]:
        """The rows with larger record numbers, in order."""
        for batch, index in self._after(record):
            record, supervised, cut = (batch.column(name)[index].as_py() for name in (RECORD, SUPERVISED, CUT))
            yield RowCounts(record, len(batch.column(INPUT_IDS)[index]), supervised, cut)

    def _after(self, record: int) -> Iterator[tuple[Any, int]]:
        """(batch, index) of every row with a larger record number."""
        first = max(bisect_right(self._places.records, record) - 1, 0)
        for number in range(first, len(self._places.offsets)):
            batch = self._batch(number)
            records = batch.column(RECORD)
            begin = bisect_left(range(len(records)), record + 1, key=lambda at: records[at].as_py())
            yield from ((batch, index) for index in range(begin, len(records)))

    def _batch(self, number: int) -> Any:
        source = pa.BufferReader(self._buffer)
        source.seek(self._places.offsets[number])
        return pa.ipc.read_record_batch(pa.ipc.read_message(source), self._places.schema)


def _mapped(path: Path) -> Any:
    """The file as a buffer. (`pyarrow.memory_map` would have the kernel fetch every batch that is only walked past.)"""
    with path.open("rb") as file:
        return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@lru_cache(maxsize=16)
def _places(path: Path, *_identity: int) -> _Places:
    """Walk the stream once. A file is known by its inode, time and size: another of the same name is walked anew."""
    source = pa.BufferReader(_mapped(path))
    reader = pa.ipc.open_stream(source)
    places = _Places(reader.schema)
    while True:
        offset = source.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return places
        if batch.num_rows:
            places.offsets.append(offset)
            places.records.append(batch.column(RECORD)[0].as_py())
            places.rows += batch.num_rows
