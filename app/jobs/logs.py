"""What the child processes of a job printed: read from the attempt's log file, in pages."""

from pathlib import Path

from app.jobs.schemas import LogPage

LOG_NAME = "output.log"


def attempt_dir(job_dir: Path, epoch: int) -> Path:
    """Where an attempt keeps its order, its events, its log and its checkpoints."""
    return job_dir / "attempts" / str(epoch)


def read_log(job_dir: Path, epoch: int | None, *, offset: int, limit: int, is_ended: bool) -> LogPage:
    """Up to `limit` bytes from byte `offset`, cut at a whole character; complete when nothing can follow."""
    path = attempt_dir(job_dir, epoch) / LOG_NAME if epoch is not None else None
    if path is None or not path.is_file():
        return LogPage(attempt=epoch, text="", next_offset=offset, is_complete=is_ended)
    with path.open("rb") as file:
        file.seek(offset)
        chunk = file.read(limit)
        at_end = not file.read(1)
    whole = chunk if at_end and is_ended else _without_torn_character(chunk)
    text = whole.decode("utf-8", errors="replace")
    return LogPage(attempt=epoch, text=text, next_offset=offset + len(whole), is_complete=at_end and is_ended)


def _without_torn_character(chunk: bytes) -> bytes:
    """Leave out the beginning of a UTF-8 character whose end is not there yet (at most 3 bytes)."""
    for back in range(1, min(4, len(chunk) + 1)):
        byte = chunk[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return chunk[:-back] if width > back else chunk
    return chunk
