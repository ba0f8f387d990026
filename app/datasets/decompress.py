"""Opens a dataset file: hashes its bytes, decompresses gzip, and limits the decompressed size."""

import contextlib
import gzip
import hashlib
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol

from app.errors import InvalidDataset, Problem

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 64 * 1024
# Text compresses 3 to 20 times, very repetitive text up to 100 times; the limit of gzip is 1032.
HIGHEST_RATIO = 200
# Below this size a higher ratio is allowed: a small file does no harm.
RATIO_COUNTS_FROM_BYTES = 16 * 2**20


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _CountingReader(io.RawIOBase):
    """Counts the bytes that are read through it. It never closes the underlying file."""

    def __init__(self, below: _Bytes) -> None:
        self._below = below
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        chunk = self._take(len(view))
        view[: len(chunk)] = chunk
        self.count += len(chunk)
        return len(chunk)

    def _take(self, size: int) -> bytes:
        return self._below.read(size)


class _HashingReader(_CountingReader):
    def __init__(self, below: _Bytes) -> None:
        super().__init__(below)
        self._hash = hashlib.sha256()

    def _take(self, size: int) -> bytes:
        chunk = super()._take(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """Returns the hash of the whole file. Reads the rest of the file first."""
        while self._take(CHUNK_BYTES):
            pass
        return self._hash.hexdigest()


class _Decompressed(_CountingReader):
    """The decompressed bytes of a gzip file. Raises InvalidDataset for a damaged file and for a decompression bomb."""

    def __init__(self, compressed: BinaryIO, raw: _CountingReader, max_bytes: int) -> None:
        super().__init__(gzip.GzipFile(fileobj=compressed))
        self._raw = raw
        self._max_bytes = max_bytes

    def _take(self, size: int) -> bytes:
        try:
            chunk = super()._take(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _invalid("invalid_gzip", str(error), "a complete gzip file") from error
        self._check_size(self.count + len(chunk))
        return chunk

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise _invalid(
                "unpacked_size", f"a size of more than {self._max_bytes} bytes", f"at most {self._max_bytes}"
            )
        if size > RATIO_COUNTS_FROM_BYTES and size > HIGHEST_RATIO * self._raw.count:
            found = f"a size of at least {size} bytes from {self._raw.count} compressed bytes"
            raise _invalid("unpacked_size", found, f"at most {HIGHEST_RATIO} times the compressed size")


def _invalid(code: str, found: str, expected: str) -> InvalidDataset:
    problem = Problem(field="file", code=code, found=found[:200], expected=expected)
    return InvalidDataset(f"decompressed file: found {problem.found}, expected {expected}", details=[problem])


class _CountingFile(io.FileIO):
    count = 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        size = super().readinto(buffer) or 0
        self.count += size
        return size


@dataclass
class DataFile:
    """An open dataset file. `stream` has its decompressed bytes; up to 64 KiB can be peeked."""

    path: Path
    stream: "io.BufferedReader[_CountingReader]"
    is_gzip: bool
    _hashing: _HashingReader
    _seekable: _CountingFile | None = None

    @property
    def bytes_read(self) -> int:
        """How many bytes of the stored file were read."""
        return self._hashing.count if self._seekable is None else self._seekable.count

    @contextlib.contextmanager
    def seekable(self) -> Iterator[IO[Any]]:
        """Opens the decompressed bytes for random access: the file itself, or a temporary copy of gzip content."""
        if not self.is_gzip:
            self._seekable = _CountingFile(self.path)
            with io.BufferedReader(self._seekable, CHUNK_BYTES) as plain:
                yield plain
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(self.stream, copy)
            copy.seek(0)
            yield copy

    def sha256(self) -> str:
        """Returns the hash of the stored (compressed) bytes. Call it after the last row was read."""
        return self._hashing.digest()


@contextlib.contextmanager
def open_file(path: Path, max_unpacked_bytes: int) -> Iterator[DataFile]:
    with path.open("rb", buffering=0) as file:
        yield _data_file(file, path, max_unpacked_bytes)


def _data_file(file: BinaryIO, path: Path, max_unpacked_bytes: int) -> DataFile:
    hashing = _HashingReader(file)
    stream: io.BufferedReader[_CountingReader] = io.BufferedReader(hashing, CHUNK_BYTES)
    if stream.peek(2)[:2] != GZIP_MAGIC:
        return DataFile(path, stream, False, hashing)
    decompressed = _Decompressed(stream, hashing, max_unpacked_bytes)
    return DataFile(path, io.BufferedReader(decompressed, CHUNK_BYTES), True, hashing)
