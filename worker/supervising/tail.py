"""Reads an attempt's events file from the offset that is stored in the database. Unfinished lines are not read."""

from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, Noticed
from app.redaction import Redactor

# Bytes that one heartbeat stores; a child that writes faster is caught up with in later heartbeats.
LARGEST_READ = 1 << 20


class EventTail:
    """`peek` returns new events, without secrets; call `advance` once they are stored."""

    def __init__(self, path: Path, offset: int = 0, redactor: Redactor | None = None) -> None:
        self._path, self._redactor = path, redactor or Redactor()
        self.offset = offset

    def peek(self) -> tuple[list[AttemptEvent], int]:
        """The complete events after the offset, and the offset after them."""
        if not self._path.exists():
            return [], self.offset
        with self._path.open("rb") as file:
            file.seek(self.offset)
            whole = _whole_lines(file)
        return [_event(line) for line in self._redactor.mask(whole).splitlines()], self.offset + len(whole)

    def advance(self, offset: int) -> None:
        self.offset = offset


def _whole_lines(file: BinaryIO) -> bytes:
    """About LARGEST_READ bytes, or one line if it is longer."""
    chunk = file.read(LARGEST_READ)
    while chunk and b"\n" not in chunk:
        more = file.read(LARGEST_READ)
        if not more:
            return b""
        chunk += more
    return chunk[: chunk.rfind(b"\n") + 1]


def _event(line: bytes) -> AttemptEvent:
    """The event, or a notice for a line that a crash of the host damaged or that only another version understands."""
    try:
        return ATTEMPT_EVENT.validate_json(line, extra="ignore")
    except ValidationError:
        return Noticed(code="event_unreadable", message="a line of an attempt's events file could not be read")
