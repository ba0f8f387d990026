"""What the child processes of a job printed: read from the attempt's log file, in pages.

    output.log.offsets   {"first", "rotated"}: where the two files lie in the whole log
    output.log.1         from byte `first` on, at most up to `rotated`
    output.log           from byte `rotated` on; the children append to it

So an offset names the same byte for ever, however often the worker moves old bytes away (`app.processes.log_rotation`).
"""

from pathlib import Path
from typing import BinaryIO

from app.jobs.schemas import LogPage
from app.processes.lock import wait_for_lock
from app.processes.log_rotation import read_offsets, rotated_log

LOG_NAME = "output.log"
# Of a UTF-8 character.
MOST_BYTES = 4
# A rotation holds the log's lock while it switches files; a frozen one must not hold up a request.
LOCK_SECONDS = 1.0


def attempt_dir(job_dir: Path, epoch: int) -> Path:
    """Where an attempt keeps its order, its events, its log and its checkpoints."""
    return job_dir / "attempts" / str(epoch)


def read_log(job_dir: Path, epoch: int | None, *, offset: int, limit: int, is_ended: bool) -> LogPage:
    """Up to `limit` bytes (4 if it is less) from byte `offset`, or from the first kept byte if that is later.

    The page is cut at a whole character, and complete when nothing can follow. It is empty while a rotation goes on.
    """
    path = attempt_dir(job_dir, epoch) / LOG_NAME if epoch is not None else None
    if path is None or not path.is_file():
        return LogPage(attempt=epoch, text="", next_offset=offset, is_complete=is_ended)
    with path.open("rb") as live:
        if not wait_for_lock(live.fileno(), LOCK_SECONDS, is_shared=True):
            return LogPage(attempt=epoch, text="", next_offset=offset, is_complete=False)
        first, start, chunk, at_end = _read(path, live, offset, max(limit, MOST_BYTES))
    whole = chunk if at_end and is_ended else _without_torn_character(chunk)
    if not at_end:  # too short to hold a whole character, though more follows: what a crash cut off
        whole = whole or chunk
    return LogPage(
        attempt=epoch,
        text=whole.decode("utf-8", errors="replace"),
        first_offset=first,
        next_offset=start + len(whole),
        is_complete=at_end and is_ended,
    )


def _read(path: Path, live: BinaryIO, offset: int, limit: int) -> tuple[int, int, bytes, bool]:
    """The first byte that is kept, the first that was read, the bytes, and whether the log ends with them."""
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
    """Leave out the beginning of a UTF-8 character whose end is not there yet (at most 3 bytes)."""
    for back in range(1, min(MOST_BYTES, len(chunk) + 1)):
        byte = chunk[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return chunk[:-back] if width > back else chunk
    return chunk
