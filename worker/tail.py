"""Reads an attempt's events file from where the database has it. A line counts once it is whole."""

from pathlib import Path

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent

# One heartbeat's worth: a child that logs faster than it can be stored is caught up with over several.
LARGEST_READ = 1 << 20


class EventTail:
    """`peek` shows what is new, `advance` moves on once that has been stored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0

    def peek(self) -> tuple[list[AttemptEvent], int]:
        """The complete events behind the offset, and the offset behind them."""
        if not self._path.exists():
            return [], self.offset
        with self._path.open("rb") as file:
            file.seek(self.offset)
            chunk = file.read(LARGEST_READ)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        return [ATTEMPT_EVENT.validate_json(line) for line in whole.splitlines()], self.offset + len(whole)

    def advance(self, offset: int) -> None:
        self.offset = offset
