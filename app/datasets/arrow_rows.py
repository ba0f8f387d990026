"""Reads the rows of Parquet files with Arrow, a few rows at a time."""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from app.datasets.decompress import HIGHEST_RATIO, RATIO_COUNTS_FROM_BYTES, DataFile
from app.datasets.rows import LONGEST_RECORD, RawRow, Rows, unreadable
from app.errors import InvalidDataset, Problem

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

# Memory is bounded by the longest value times this number: in a dictionary-encoded column, a small file can repeat
# one long value in a million rows.
ROWS_AT_ONCE = 8
READ_BUFFER_BYTES = 2**20
BYTES_OF_A_NUMBER = 8
# What Arrow raises for a damaged or malicious file, or for a value that Python cannot represent.
FAULTS = (OSError, ValueError, TypeError, LookupError, NotImplementedError, OverflowError, RecursionError)


def read_parquet(file: DataFile, max_unpacked_bytes: int) -> Rows:
    """Yields the rows in file order. Raises InvalidDataset for a damaged file, or when the values are too large."""
    import pyarrow  # takes a while, and most files are JSON

    number = size = 0
    with file.seekable() as source:
        try:
            for value in _values(source, max_unpacked_bytes):
                number += 1
                length = _size(value)
                size += length
                _check_size(number, length, size, max_unpacked_bytes)
                yield RawRow(number, None, value, is_arrow=True)
        except MemoryError as error:
            raise _too_large(f"values that do not fit in memory, after record {number}", max_unpacked_bytes) from error
        except (pyarrow.ArrowException, *FAULTS) as error:
            found = f"{type(error).__name__} after record {number}: {error}"[:200]
            raise unreadable(
                Problem(code="invalid_parquet", found=found, expected="a complete Parquet file")
            ) from error


def _values(source: IO[Any], max_unpacked_bytes: int) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    compressed = source.seek(0, 2)
    reader = ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
    _check_names(reader.schema_arrow.names)
    _check_pages(reader, compressed, max_unpacked_bytes)
    for batch in reader.iter_batches(batch_size=ROWS_AT_ONCE):
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError):  # text that is not UTF-8, or a time that Python cannot represent
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield from ({name: _cell(cells[row]) for name, cells in columns.items()} for row in range(len(batch)))


def _check_names(names: list[str]) -> None:
    wrong = sorted({name for name in names if names.count(name) > 1})
    if wrong:
        found = f"duplicate column names: {wrong!r}"[:200]
        raise unreadable(Problem(code="invalid_header", found=found, expected="a different name for each column"))


def _check_pages(reader: "ParquetFile", compressed: int, limit: int) -> None:
    """Checks the decompressed size that the file declares, before anything is decompressed."""
    groups = range(reader.metadata.num_row_groups)
    size = sum(reader.metadata.row_group(index).total_byte_size for index in groups)
    if size > limit:
        raise _too_large(f"a size of {size} bytes", limit)
    if size > RATIO_COUNTS_FROM_BYTES and size > HIGHEST_RATIO * compressed:
        raise _too_large(f"a size of {size} bytes from {compressed} compressed bytes", HIGHEST_RATIO * compressed)


def _cell(scalar: "pyarrow.Scalar") -> Any:
    """Converts a value to Python. Parts that Python cannot represent stay Arrow scalars, which the checks refuse."""
    import pyarrow

    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if isinstance(scalar, pyarrow.StringScalar):
            return scalar.as_buffer().to_pybytes().decode(errors="surrogateescape")
    except (ValueError, OverflowError):
        pass
    match scalar:
        case pyarrow.MapScalar():
            return scalar
        case pyarrow.ListScalar():
            return [_cell(item) for item in scalar]
        case pyarrow.StructScalar() if len(set(scalar)) == len(scalar):
            return {name: _cell(scalar[name]) for name in scalar}
        case _:
            return scalar


def _size(value: Any) -> int:
    """Returns the number of characters of all texts in the value, plus a few bytes for anything else."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else BYTES_OF_A_NUMBER


def _check_size(number: int, length: int, size: int, limit: int) -> None:
    if length > LONGEST_RECORD:
        found, expected = f"a size of {length}", f"at most {LONGEST_RECORD} characters per record"
        raise unreadable(Problem(record=number, code="record_too_long", found=found, expected=expected))
    if size > limit:
        raise _too_large(f"a size of more than {limit} bytes in {number} records", limit)


def _too_large(found: str, limit: int) -> InvalidDataset:
    return unreadable(Problem(field="file", code="unpacked_size", found=found, expected=f"at most {limit} bytes"))
