"""Limits the size of a log that a child has open: old bytes are copied to another file, and the log is truncated.

    copy ─> lock ─> offsets without `.1` ─> replace `.1` ─> offsets too large ─> copy the rest, cut ─> exact offsets

After a crash between two of these steps no offset names two different bytes. Until `.1` is replaced, the live file
keeps its offset; after that its offset is recorded as larger than it can be. So bytes that are still in the live file
may be read a second time at later offsets, and the offsets between are skipped. Readers hold the lock while they read
(`app.jobs.views.logs`). What the child prints between the last copy and the cut, some microseconds, is lost and has no
offset.
"""

import logging
import os
from io import FileIO
from pathlib import Path

from app.contracts.stored import Stored, read_json
from app.processes.lock import wait_for_lock

MAX_BYTES = 8 * 2**20
# More bytes than a child can print during a rotation.
MARGIN_BYTES = 2**30
COPY_BYTES = 2**20
LOCK_SECONDS = 0.5
log = logging.getLogger(__name__)


class LogOffsets(Stored):
    """How many bytes of the whole log precede the rotated file (`first`) and the live one (`rotated`)."""

    first: int = 0
    rotated: int = 0


def rotated_log(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def offsets_file(path: Path) -> Path:
    return path.with_name(path.name + ".offsets")


def read_offsets(path: Path) -> LogOffsets:
    """Return the offsets of a live log file, or zeros if it was never rotated or they cannot be read."""
    file = offsets_file(path)
    return (read_json(LogOffsets, file.read_bytes()) if file.exists() else None) or LogOffsets()


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Move a log that is longer than `max_bytes` to its `.1`, which keeps the newest `max_bytes` of it.

    Only one process may call this at a time; others may append (O_APPEND) and read. Returns False if the log was not
    truncated, because it is short, a reader held the lock or the copy failed; the next call tries again.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
        return _rotate(path, max_bytes)
    except FileNotFoundError:
        return False
    except OSError as error:  # no attempt should fail because of its log
        log.warning("%s was not rotated: %s", path, error)
        return False


def _rotate(path: Path, max_bytes: int) -> bool:
    """Rotate without buffers, because the exact numbers of bytes read and written are needed."""
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
    """Copy until a read returns nothing, while the child appends. Raises OSError if the disk is full."""
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
