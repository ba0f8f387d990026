"""Keeps the log of a child bounded that a child has open: its bytes are moved away and the file is cut to nothing.

    copy ─> lock ─> offsets without old bytes ─> new old bytes ─> offsets ahead ─> copy the rest, cut ─> exact offsets

At a death between two of these no offset has named two bytes: until the new old bytes count, the live file keeps its
place; from then on its place is given as further on than it can be. So what is still in it may be read a second time,
at later offsets, and the offsets between are skipped. Readers hold the lock while they read (`app.jobs.views.logs`).
What the child prints between the last read and the cut, some microseconds, is lost and has no offset.
"""

import logging
import os
from io import FileIO
from pathlib import Path

from app.contracts.stored import Stored, read_json
from app.processes.lock import wait_for_lock

MAX_BYTES = 8 * 2**20
# More than a child can print while the files are switched.
MARGIN_BYTES = 2**30
COPY_BYTES = 2**20
LOCK_SECONDS = 0.5
log = logging.getLogger(__name__)


class LogOffsets(Stored):
    """Bytes of the whole log before the rotated file, and before the live one."""

    first: int = 0
    rotated: int = 0


def rotated_log(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def offsets_file(path: Path) -> Path:
    return path.with_name(path.name + ".offsets")


def read_offsets(path: Path) -> LogOffsets:
    """Those of a live log file, which never was rotated if there are none that can be read."""
    file = offsets_file(path)
    return (read_json(LogOffsets, file.read_bytes()) if file.exists() else None) or LogOffsets()


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Move a log that is longer than `max_bytes` to its `.1`, which keeps the newest `max_bytes` of it.

    For one process at a time, while others append (O_APPEND) and read. False: it was not cut, because it is short, a
    reader did not let go of it, or the disk did not take the copy; the next call tries again.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
        return _rotate(path, max_bytes)
    except FileNotFoundError:
        return False
    except OSError as error:  # a log is not worth an attempt
        log.warning("%s was not rotated: %s", path, error)
        return False


def _rotate(path: Path, max_bytes: int) -> bool:
    """No buffers: what was read and what was written has to be known to the byte."""
    fresh = path.with_name(path.name + ".1.part")
    with path.open("r+b", buffering=0) as live, fresh.open("wb", buffering=0) as copy:
        skipped = live.seek(max(0, os.fstat(live.fileno()).st_size - max_bytes))
        _copy(live, copy)
        os.fsync(copy.fileno())
        if not wait_for_lock(live.fileno(), LOCK_SECONDS):
            return False
        before = read_offsets(path).rotated
        _write_offsets(path, LogOffsets(first=before, rotated=before))
        fresh.replace(rotated_log(path))
        first = before + skipped
        _write_offsets(path, LogOffsets(first=first, rotated=before + live.tell() + MARGIN_BYTES))
        _copy(live, copy)
        os.ftruncate(live.fileno(), 0)
        _write_offsets(path, LogOffsets(first=first, rotated=before + live.tell()))
    return True


def _copy(live: FileIO, copy: FileIO) -> None:
    """Up to an end that the child moves on: the last read finds nothing. Raises OSError when the disk is full."""
    while chunk := live.read(COPY_BYTES):
        while chunk:
            chunk = chunk[copy.write(chunk) :]


def _write_offsets(path: Path, offsets: LogOffsets) -> None:
    target = offsets_file(path)
    part = target.with_name(target.name + ".part")
    with part.open("w") as file:
        file.write(offsets.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
