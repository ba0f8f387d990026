"""Rows that come through Arrow: Parquet files, a few rows at a time."""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from app.datasets.decompress import HIGHEST_RATIO, RATIO_COUNTS_FROM_BYTES, DataFile
from app.datasets.rows import LONGEST_RECORD, RawRow, Rows, unreadable
from app.errors import InvalidDataset, Problem

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

# Memory is bounded by the longest value times this: a dictionary holds once what a million rows repeat.
ROWS_AT_ONCE = 8
READ_BUFFER_BYTES = 2**20
BYTES_OF_A_NUMBER = 8
# What a value, or a file that was made to do harm, meets on its way through Arrow to Python.
FAULTS = (OSError, ValueError, TypeError, LookupError, NotImplementedError, OverflowError, RecursionError)


def read_parquet(file: DataFile, max_unpacked_bytes: int) -> Rows:
    """Rows of every row group in turn. Raises InvalidDataset for a damaged file, or when the values grow too large."""
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
            raise _too_large(f"values of more than the memory behind record {number}", max_unpacked_bytes) from error
        except (pyarrow.ArrowException, *FAULTS) as error:
            found = f"{type(error).__name__} behind record {number}: {error}"[:200]
            raise unreadable(Problem(code="invalid_parquet", found=found, expected="a whole Parquet file")) from error


def _values(source: IO[Any], max_unpacked_bytes: int) -> Iterator[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile

    packed = source.seek(0, 2)
    reader = ParquetFile(source, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
    _check_names(reader.schema_arrow.names)
    _check_pages(reader, packed, max_unpacked_bytes)
    for batch in reader.iter_batches(batch_size=ROWS_AT_ONCE):
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError):  # text that is not UTF-8, a time that Python cannot hold
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield from ({name: _cell(cells[row]) for name, cells in columns.items()} for row in range(len(batch)))


def _check_names(names: list[str]) -> None:
    wrong = sorted({name for name in names if names.count(name) > 1})
    if wrong:
        found = f"doubled column names: {wrong!r}"[:200]
        raise unreadable(Problem(code="invalid_header", found=found, expected="a name of its own a column"))


def _check_pages(reader: "ParquetFile", packed: int, limit: int) -> None:
    """Before anything is unpacked: what the file itself says of the size of its pages."""
    groups = range(reader.metadata.num_row_groups)
    size = sum(reader.metadata.row_group(index).total_byte_size for index in groups)
    if size > limit:
        raise _too_large(f"a size of {size} bytes", limit)
    if size > RATIO_COUNTS_FROM_BYTES and size > HIGHEST_RATIO * packed:
        raise _too_large(f"a size of {size} bytes in {packed} packed bytes", HIGHEST_RATIO * packed)


def _cell(scalar: "pyarrow.Scalar") -> Any:
    """A value, or as much of it as Python can hold: the rest stays Arrow's, which is no text and no number."""
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
    """Characters of all texts in it, and a few bytes for anything else."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else BYTES_OF_A_NUMBER


def _check_size(number: int, length: int, size: int, limit: int) -> None:
    if length > LONGEST_RECORD:
        found, expected = f"a size of {length}", f"at most {LONGEST_RECORD} characters a record"
        raise unreadable(Problem(record=number, code="record_too_long", found=found, expected=expected))
    if size > limit:
        raise _too_large(f"a size of more than {limit} bytes in {number} records", limit)


def _too_large(found: str, limit: int) -> InvalidDataset:
    return unreadable(Problem(field="file", code="unpacked_size", found=found, expected=f"at most {limit} bytes"))
