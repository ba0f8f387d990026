"""Stores the bytes of an upload on disk: a file is complete or absent."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.disk_faults import NO_ROOM
from app.errors import DiskFull, Problem, TooLarge

# Uploads may not use the last bytes of the disk: the database, events and checkpoints need them.
RESERVE_BYTES = 256 * 2**20
BYTES_BETWEEN_CHECKS = 16 * 2**20
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Received:
    bytes: int
    sha256: str


def partial_path(target: Path) -> Path:
    """Returns the path of a file's bytes while they are received and checked."""
    return target.with_name(f"{PARTIAL}{target.name}")


def sweep_partials(folder: Path, older_than_seconds: float) -> int:
    """Removes the partial files of killed uploads and returns their number. Younger files may still be in use."""
    removed, before = 0, time.time() - older_than_seconds
    for partial in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # finished, or removed by another process
            if partial.stat().st_mtime < before:
                partial.unlink()
                removed += 1
    return removed


class Sink:
    """A new file for the bytes of an upload. On exit of the context it is deleted, unless `keep` renamed it.

    Two threads must not write to it at once.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._size = self._checked_at = 0

    def write(self, data: bytes) -> None:
        """Raises TooLarge above the limit, and DiskFull when less than RESERVE_BYTES of the disk are free."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._size - self._checked_at >= BYTES_BETWEEN_CHECKS:
            self._checked_at = self._size
            check_room(self.path.parent, 0)
        self._digest.update(data)
        with disk_full_errors():
            self._file.write(data)

    def seek(self, _offset: int) -> None:
        """Writes all bytes through to the disk. The form parser calls it at the end of the file."""
        with disk_full_errors():
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def received(self) -> Received:
        return Received(self._size, self._digest.hexdigest())

    def __enter__(self) -> Self:
        with disk_full_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def check_room(folder: Path, size: int) -> None:
    """Raises DiskFull if the folder's disk has less than `size` + RESERVE_BYTES bytes free."""
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage(folder).free < size + RESERVE_BYTES:
            raise DiskFull(f"the server's disk has no room for {size:,} more bytes", param="file")


@contextlib.contextmanager
def disk_full_errors() -> Iterator[None]:
    """Turns the OSError of a full disk or a full quota into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull("the server's disk is full", param="file") from error


def keep(partial: Path, target: Path) -> None:
    """Gives a received file its final name. After that it survives a power failure."""
    partial.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _too_large(limit: int) -> TooLarge:
    problem = Problem(
        field="file", code="too_large", found=f"more than {limit} bytes", expected=f"at most {limit} bytes"
    )
    return TooLarge(f"file: found more than {limit} bytes, expected at most {limit}", param="file", details=[problem])
