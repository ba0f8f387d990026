"""How API, workers and engine log: lines of text, or one JSON object a line, each with what it is about.

A request's id, and the job and attempt that a worker works on, are context variables, so no call has to pass them on.
Messages never hold prompts, rows or secrets; here nothing is added but ids.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]
VARIABLE = "TUNESMITH_LOG_FORMAT"
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
NAMES_A_JOB = re.compile(r"\bjob-[a-z2-7]{24}\b")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_attempt: ContextVar[tuple[str, int] | None] = ContextVar("attempt", default=None)


@contextmanager
def about_attempt(job_id: str, attempt: int) -> Iterator[None]:
    """Name the job and the attempt in all lines of the block."""
    before = _attempt.set((job_id, attempt))
    try:
        yield
    finally:
        _attempt.reset(before)


def set_up(level: str | int, form: str) -> None:
    """Log to standard error in this form. A process that logs already, as one of tests does, keeps its handlers."""
    root = logging.getLogger()
    if not root.handlers:
        root.setLevel(level)
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines() if form == "json" else TextLines(TEXT))
        root.addHandler(handler)


class TextLines(logging.Formatter):
    """Lines of text. One that is about a job, and does not name it, begins with its name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        attempt = _attempt.get()
        if attempt is not None and NAMES_A_JOB.search(record.message) is None:
            record.message = f"{attempt[0]}: {record.message}"
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """One JSON object a line. What is not known is left out."""

    def format(self, record: logging.LogRecord) -> str:
        message, attempt = record.getMessage(), _attempt.get()
        named = NAMES_A_JOB.search(message)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "request_id": request_id.get(),
            "job_id": attempt[0] if attempt is not None else named and named[0],
            "attempt": attempt[1] if attempt is not None else None,
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)
