"""Reads an attempt's events file from where the database has it. A line counts once it is whole."""

from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, Noticed

# One heartbeat's worth: a child that logs faster than it can be stored is caught up with over several.
LARGEST_READ = 1 << 20


class EventTail:
    """`peek` shows what is new, `advance` moves on once that has been stored."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset

    def peek(self) -> tuple[list[AttemptEvent], int]:
        """The complete events behind the offset, and the offset behind them."""
        if not self._path.exists():
            return [], self.offset
        with self._path.open("rb") as file:
            file.seek(self.offset)
            whole = _whole_lines(file)
        return [_event(line) for line in whole.splitlines()], self.offset + len(whole)

    def advance(self, offset: int) -> None:
        self.offset = offset


def _whole_lines(file: BinaryIO) -> bytes:
    """About `LARGEST_READ` bytes, or one line where that is longer."""
    chunk = file.read(LARGEST_READ)
    while chunk and b"\n" not in chunk:
        more = file.read(LARGEST_READ)
        if not more:
            return b""
        chunk += more
    return chunk[: chunk.rfind(b"\n") + 1]


def _event(line: bytes) -> AttemptEvent:
    """A line that a crash of the host has torn, or that only another version understands, is told and stops nobody."""
    try:
        return ATTEMPT_EVENT.validate_json(line, extra="ignore")
    except ValidationError:
        return Noticed(code="event_unreadable", message="a line of an attempt's events file could not be read")
