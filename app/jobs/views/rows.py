"""Random access to the rows that a trainer reads. The Arrow file is mapped, and only the requested rows are read.

An Arrow stream has no index, so its batches are scanned once and their positions are cached. `record` ascends, so a row
is found by two binary searches.
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

from app.contracts.rows import COLUMNS, CUT, INPUT_IDS, LABELS, RECORD, SUPERVISED


@dataclass(frozen=True)
class RowCounts:
    """The counts of one row. `cut` is the number of tokens that were cut off at its end."""

    record: int
    tokens: int
    supervised: int
    cut: int


@dataclass(frozen=True)
class StoredRow:
    """One row. `labels` is as long as `ids`: the token's id if it carries loss, else IGNORED.

    `columns` are those of the training method.
    """

    record: int
    ids: list[int]
    labels: list[int]
    cut: int
    columns: dict[str, Any]


@dataclass
class _Places:
    """The byte offset and the first record of each batch of one file, and the number of all rows."""

    schema: Any
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    records: "array[int]" = field(default_factory=lambda: array("q"))
    rows: int = 0


class RowFile:
    """The rows of one split. The file may be deleted while it is open."""

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
            further = [name for name in batch.schema.names if name not in COLUMNS]
            return StoredRow(record, ids, labels, cut, {name: batch.column(name)[index].as_py() for name in further})
        return None

    def after(self, record: int) -> Iterator[RowCounts]:
        """Yield the counts of the rows with larger record numbers, in order."""
        for batch, index in self._after(record):
            record, supervised, cut = (batch.column(name)[index].as_py() for name in (RECORD, SUPERVISED, CUT))
            yield RowCounts(record, len(batch.column(INPUT_IDS)[index]), supervised, cut)

    def _after(self, record: int) -> Iterator[tuple[Any, int]]:
        """Yield (batch, index) of every row with a larger record number."""
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
    """Map a file. (With `pyarrow.memory_map` the kernel would also read every batch that is only skipped.)"""
    with path.open("rb") as file:
        return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@lru_cache(maxsize=16)
def _places(path: Path, *_identity: int) -> _Places:
    """Scan the stream once. The cache key has inode, time and size: another file of the same name is scanned again."""
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
