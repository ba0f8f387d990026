"""What ends a command with a message instead of a traceback.

CommandError
 ├── BadInput
 ├── ApiError
 ├── UnreadableAnswer
 └── ServiceAbsent ── AnswerLost
"""

import json
from collections.abc import Iterator
from typing import Any, Self

from pydantic import ValidationError

from app import __version__
from app.cli.text import problem_line
from app.config import PREFIX, Settings


class CommandError(Exception):
    """The message is for the user of the command."""


class BadInput(CommandError):
    """What was given to the command cannot be used."""


class ServiceAbsent(CommandError):
    """Nothing answers at the URL, or the answer was not complete."""


class AnswerLost(ServiceAbsent):
    """The connection broke before the answer was complete: what was requested may have been done."""


class UnreadableAnswer(CommandError):
    """The service answered in a form that this version does not know."""

    def __init__(self, problem: str) -> None:
        reason = f"tunesmith {__version__} cannot read, perhaps because the service is another version: {problem}"
        super().__init__(f"the service answered in a form that {reason}")


class ApiError(CommandError):
    """The service refused or failed. `details` places each problem: record, line, field, found, expected."""

    def __init__(self, status: int, code: str, message: str, details: list[dict[str, Any]]) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.details = status, code, message, details

    @classmethod
    def of(cls, status: int, body: str | dict[str, Any]) -> Self:
        """Read from the one error form of the service; any other body is quoted."""
        try:
            error = (json.loads(body) if isinstance(body, str) else body)["error"]
            return cls(status, error["code"], error["message"], error.get("details") or [])
        except (ValueError, KeyError, TypeError, UnreadableAnswer):
            return cls(status, f"http_{status}", str(body)[:200] or "an empty answer", [])


def error_lines(error: Exception) -> list[str]:
    """The lines to print, each problem once: the message of a refusal names the first one already."""
    match error:
        case ApiError():
            details = (problem_line(detail) for detail in error.details)
            return [f"{error.code}: {error.message}", *(line for line in details if line.strip() not in error.message)]
        case ValidationError():
            return list(_setting_lines(error))
    return [str(error)]


def _setting_lines(error: ValidationError) -> Iterator[str]:
    """Each wrong setting by the name of its variable; only values that can hold no password are quoted."""
    from app.web.validation import expectation, quote  # slow to import: it knows every field of a job

    for problem in error.errors():
        name = "".join(map(str, problem["loc"]))
        rule = problem["msg"].removeprefix("Value error, ")
        if name not in Settings.model_fields:
            yield f"{name}: {rule}" if name else rule
        elif rule.startswith("found "):
            yield f"{PREFIX}{name.upper()}: {rule}"
        else:
            found = "" if name.endswith(("url", "key")) else f"found {quote(str(problem['input']))}, "
            yield f"{PREFIX}{name.upper()}: {found}expected {expectation(rule)}"
