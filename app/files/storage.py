"""The bytes of an upload on disk: complete or absent, hashed and counted on their way."""

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

# What is left to the database, events and checkpoints when uploads are refused.
RESERVE_BYTES = 256 * 2**20
BYTES_BETWEEN_LOOKS = 16 * 2**20
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Received:
    bytes: int
    sha256: str


def partial_path(target: Path) -> Path:
    """Where the bytes of a file are while they are received and checked."""
    return target.with_name(f"{PARTIAL}{target.name}")


def sweep_partials(folder: Path, older_than_seconds: float) -> int:
    """Remove what killed uploads left, and say how many. One that is younger may still be received or checked."""
    removed, before = 0, time.time() - older_than_seconds
    for partial in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # ended, or swept by another process
            if partial.stat().st_mtime < before:
                partial.unlink()
                removed += 1
    return removed


class Sink:
    """A new file that the bytes of an upload go to. A context: the file is gone behind it, unless it was kept.

    Not to be written by two threads at once.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._size = self._looked_at = 0

    def write(self, data: bytes) -> None:
        """Raises TooLarge at the first byte over, and DiskFull before the disk is full for all."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._size - self._looked_at >= BYTES_BETWEEN_LOOKS:
            self._looked_at = self._size
            check_room(self.path.parent, 0)
        self._digest.update(data)
        with named_full():
            self._file.write(data)

    def seek(self, _offset: int) -> None:
        """Called at the end of the file, by who may read it then: all of it goes through to the disk."""
        with named_full():
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def received(self) -> Received:
        return Received(self._size, self._digest.hexdigest())

    def __enter__(self) -> Self:
        with named_full():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def check_room(folder: Path, size: int) -> None:
    """Raises DiskFull where the folder's disk has not so many bytes, and some for the service to go on with."""
    with contextlib.suppress(FileNotFoundError):
        if shutil.disk_usage(folder).free < size + RESERVE_BYTES:
            raise DiskFull(f"the server's disk has no room for {size:,} bytes more", param="file")


@contextlib.contextmanager
def named_full() -> Iterator[None]:
    """Raises DiskFull for what the kernel says about a full disk, or a full quota."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull("the server's disk is full", param="file") from error


def keep(partial: Path, target: Path) -> None:
    """Give a received file its final name, so that it survives a loss of power from here on."""
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
