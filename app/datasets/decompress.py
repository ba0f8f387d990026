"""Bytes of a dataset file: hashed as they are read, unpacked where they are gzip, and never more than allowed."""

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
# Text packs 3 to 20 times, very repetitive text up to 100 times, and gzip's own limit is 1032.
HIGHEST_RATIO = 200
# A small file may pack better than that by its nature: it does no harm.
RATIO_COUNTS_FROM_BYTES = 16 * 2**20


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted(io.RawIOBase):
    """What is read through it is counted. It never closes the file below."""

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


class _Hashed(_Counted):
    def __init__(self, below: _Bytes) -> None:
        super().__init__(below)
        self._hash = hashlib.sha256()

    def _take(self, size: int) -> bytes:
        chunk = super()._take(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        """The hash of the whole file: what nobody has read yet is read now."""
        while self._take(CHUNK_BYTES):
            pass
        return self._hash.hexdigest()


class _Unpacked(_Counted):
    """The unpacked bytes of a gzip file. Raises InvalidDataset for a damaged one, and for a bomb once it shows."""

    def __init__(self, packed: BinaryIO, raw: _Counted, max_bytes: int) -> None:
        super().__init__(gzip.GzipFile(fileobj=packed))
        self._raw = raw
        self._max_bytes = max_bytes

    def _take(self, size: int) -> bytes:
        try:
            chunk = super()._take(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _refused("invalid_gzip", str(error), "a whole gzip file") from error
        self._check_size(self.count + len(chunk))
        return chunk

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise _refused(
                "unpacked_size", f"a size of more than {self._max_bytes} bytes", f"at most {self._max_bytes}"
            )
        if size > RATIO_COUNTS_FROM_BYTES and size > HIGHEST_RATIO * self._raw.count:
            found = f"a size of {size} bytes and more behind {self._raw.count} packed bytes"
            raise _refused("unpacked_size", found, f"at most {HIGHEST_RATIO} times the packed size")


def _refused(code: str, found: str, expected: str) -> InvalidDataset:
    problem = Problem(field="file", code=code, found=found[:200], expected=expected)
    return InvalidDataset(f"unpacked file: found {problem.found}, expected {expected}", details=[problem])


class _CountedFile(io.FileIO):
    count = 0

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        size = super().readinto(buffer) or 0
        self.count += size
        return size


@dataclass
class DataFile:
    """A dataset file that is open. `stream` gives its unpacked bytes, and can be peeked into by 64 KiB."""

    path: Path
    stream: "io.BufferedReader[_Counted]"
    is_gzip: bool
    _hashed: _Hashed
    _seekable: _CountedFile | None = None

    @property
    def bytes_read(self) -> int:
        """Of the file as it is stored."""
        return self._hashed.count if self._seekable is None else self._seekable.count

    @contextlib.contextmanager
    def seekable(self) -> Iterator[IO[Any]]:
        """The unpacked bytes in any order: the file itself, or a temporary copy of what gzip held."""
        if not self.is_gzip:
            self._seekable = _CountedFile(self.path)
            with io.BufferedReader(self._seekable, CHUNK_BYTES) as plain:
                yield plain
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(self.stream, copy)
            copy.seek(0)
            yield copy

    def sha256(self) -> str:
        """Of the very bytes that were read, packed as they are. To be asked for behind the last row."""
        return self._hashed.digest()


@contextlib.contextmanager
def open_file(path: Path, max_unpacked_bytes: int) -> Iterator[DataFile]:
    with path.open("rb", buffering=0) as file:
        yield _opened(file, path, max_unpacked_bytes)


def _opened(file: BinaryIO, path: Path, max_unpacked_bytes: int) -> DataFile:
    hashed = _Hashed(file)
    stream: io.BufferedReader[_Counted] = io.BufferedReader(hashed, CHUNK_BYTES)
    if stream.peek(2)[:2] != GZIP_MAGIC:
        return DataFile(path, stream, False, hashed)
    unpacked = _Unpacked(stream, hashed, max_unpacked_bytes)
    return DataFile(path, io.BufferedReader(unpacked, CHUNK_BYTES), True, hashed)
