"""Writes an attempt's events: one complete JSON line a write, so that a reader never sees half of one that counts."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.contracts.events import Event, Noticed, Phase, PhaseStarted


class EventWriter:
    """Appends to the events file; the worker tails it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: Event) -> None:
        """One line, whole or not at all. Raises OSError where the disk does not take it."""
        line = event.model_dump_json().encode() + b"\n"
        written = os.write(self._file, line)
        if written < len(line):  # the disk is full: half a line would spoil the next one too
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def enter(self, phase: Phase) -> None:
        self.write(PhaseStarted(phase=phase))

    def notice(
        self, code: str, message: str, field: str | None = None, requested: Any = None, effective: Any = None
    ) -> None:
        """Say that something is done otherwise than asked."""
        self.write(Noticed(code=code, message=message, field=field, requested=requested, effective=effective))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
