"""Writes an attempt's events: one complete JSON line a write, so that a reader never sees half of one that counts."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.contracts.events import Event, Noticed, Phase, PhaseStarted


class EventWriter:
    """Appends to the events file; the worker tails it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: Event) -> None:
        os.write(self._file, event.model_dump_json().encode() + b"\n")

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
