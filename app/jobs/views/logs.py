"""Reads the log of an attempt, that is, what its child processes printed, in pages.

    output.log.offsets   {"first", "rotated"}: where the two files begin in the whole log
    output.log.1         from byte `first` on, at most up to `rotated`
    output.log           from byte `rotated` on; the children append to it

A host without the attempt's folder reads the copy that its worker put into the store.

So an offset always names the same byte, however often the worker rotates the log (`app.processes.log_rotation`).
"""

from pathlib import Path
from typing import BinaryIO

from app.jobs.schemas import LogPage
from app.processes.lock import wait_for_lock
from app.processes.log_rotation import read_offsets, rotated_log
from app.store.copies import HomeFiles, OnlyHome

LOG_NAME = "output.log"
# The most bytes of a UTF-8 character.
MOST_BYTES = 4
# A rotation holds the log's lock while it switches files. A request waits no longer than this, in case it is frozen.
LOCK_SECONDS = 1.0


def attempt_dir(job_dir: Path, epoch: int) -> Path:
    """Return the folder of an attempt's order, events and log."""
    return job_dir / "attempts" / str(epoch)


def stored_log(job_dir: Path, epoch: int) -> Path:
    """Return the folder of the copy of an attempt's log."""
    return job_dir / "logs" / str(epoch)


def read_log(
    job_dir: Path,
    epoch: int | None,
    *,
    offset: int,
    limit: int,
    is_ended: bool,
    files: HomeFiles | None = None,
) -> LogPage:
    """Read up to `limit` bytes (at least 4) from byte `offset`, or from the first kept byte if that is later.

    The page ends with a whole character, and is complete if nothing can follow. It is empty during a rotation. Raises
    StoreAway.
    """
    path = _find(job_dir, epoch, files or OnlyHome()) if epoch is not None else None
    if path is None or not path.is_file():
        return LogPage(attempt=epoch, text="", next_offset=offset, is_complete=is_ended)
    with path.open("rb") as live:
        if not wait_for_lock(live.fileno(), LOCK_SECONDS, is_shared=True):
            return LogPage(attempt=epoch, text="", next_offset=offset, is_complete=False)
        first, start, chunk, at_end = _read(path, live, offset, max(limit, MOST_BYTES))
    whole = chunk if at_end and is_ended else _without_torn_character(chunk)
    if not at_end:  # more follows, but this part ends within a character, because a crash cut it off
        whole = whole or chunk
    return LogPage(
        attempt=epoch,
        text=whole.decode("utf-8", errors="replace"),
        first_offset=first,
        next_offset=start + len(whole),
        is_complete=at_end and is_ended,
    )


def _find(job_dir: Path, epoch: int, files: HomeFiles) -> Path:
    path = attempt_dir(job_dir, epoch) / LOG_NAME
    if path.is_file():
        return path
    return files.bring(stored_log(job_dir, epoch), is_replaced=True) / LOG_NAME


def _read(path: Path, live: BinaryIO, offset: int, limit: int) -> tuple[int, int, bytes, bool]:
    """Return the offsets of the first kept byte and of the first byte read, the bytes, and whether they end the log."""
    offsets = read_offsets(path)
    old = rotated_log(path)
    kept = min(old.stat().st_size, offsets.rotated - offsets.first) if old.exists() else 0
    end_of_old = offsets.first + kept
    first = offsets.first if kept else offsets.rotated
    start, chunk = max(offset, first), b""
    if start < end_of_old:
        with old.open("rb") as file:
            file.seek(start - offsets.first)
            chunk = file.read(min(limit, end_of_old - start))
        if len(chunk) == limit or end_of_old < offsets.rotated:
            return first, start, chunk, False
    start = start if chunk else max(start, offsets.rotated)
    live.seek(start + len(chunk) - offsets.rotated)
    chunk += live.read(limit - len(chunk))
    return first, start, chunk, not live.read(1)


def _without_torn_character(chunk: bytes) -> bytes:
    """Return the chunk without an incomplete UTF-8 character at its end (at most 3 bytes)."""
    for back in range(1, min(MOST_BYTES, len(chunk) + 1)):
        byte = chunk[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return chunk[:-back] if width > back else chunk
    return chunk
