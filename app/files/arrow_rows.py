"""Rows that come through Arrow: Parquet files, a few rows at a time, and datasets of the hub."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from app.errors import InvalidDataset, Problem
from app.files.rows import RawRow, Rows, unreadable
from app.files.unpack import DataFile

# Memory is bounded by the longest value times this: a value may be far longer than what the file spends on it.
ROWS_AT_ONCE = 64
READ_BUFFER_BYTES = 2**20


def read_parquet(file: DataFile, max_unpacked_bytes: int) -> Rows:
    """Rows of every row group in turn. Raises InvalidDataset for a damaged file, or when the values grow too large."""
    import pyarrow  # takes a while, and most files are JSON
    import pyarrow.parquet

    number = size = 0
    with _seekable(file) as source:
        try:
            reader = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            for batch in reader.iter_batches(batch_size=ROWS_AT_ONCE):
                size += batch.nbytes
                if size > max_unpacked_bytes:
                    raise _too_large(number, max_unpacked_bytes)
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(number, None, value, is_arrow=True)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            found = f"{type(error).__name__} behind record {number}: {error}"[:200]
            raise unreadable(Problem(code="invalid_parquet", found=found, expected="a whole Parquet file")) from error


def read_hub(rows: Iterable[dict[str, Any]]) -> Rows:
    """Rows of a loaded dataset, with numpy's arrays and numbers as lists and numbers."""
    for number, value in enumerate(rows, 1):
        yield RawRow(number, None, _plain(value), is_arrow=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _too_large(number: int, limit: int) -> InvalidDataset:
    found = f"a size of more than {limit} bytes behind record {number}"
    return unreadable(Problem(field="file", code="unpacked_size", found=found, expected=f"at most {limit} bytes"))


@contextmanager
def _seekable(file: DataFile) -> Iterator[IO[Any]]:
    """Parquet is read from its end: the file itself, or a temporary copy of what gzip held."""
    if not file.is_gzip:
        with file.path.open("rb") as plain:
            yield plain
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file.stream, copy)
        copy.seek(0)
        yield copy
