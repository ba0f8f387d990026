"""Writes an attempt's events, one complete JSON line a write. A reader ignores a line that does not end yet."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.contracts.events import Event, Noticed, Phase, PhaseStarted


class EventWriter:
    """Appends events to the file at `path`, which the worker reads while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: Event) -> None:
        """Append one whole line, or nothing. Raises OSError if the disk is full or faulty."""
        line = event.model_dump_json().encode() + b"\n"
        written = os.write(self._file, line)
        if written < len(line):  # the disk is full; half a line would also make the next one unreadable
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def enter(self, phase: Phase) -> None:
        self.write(PhaseStarted(phase=phase))

    def notice(
        self, code: str, message: str, field: str | None = None, requested: Any = None, effective: Any = None
    ) -> None:
        """Report that something is done differently from what was requested."""
        self.write(Noticed(code=code, message=message, field=field, requested=requested, effective=effective))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
