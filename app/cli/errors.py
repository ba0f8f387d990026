"""What went wrong, in the lines that a command prints."""

from collections.abc import Iterator

from pydantic import ValidationError

from app.cli.client import ApiError
from app.cli.report import problem_line
from app.config import PREFIX, Settings
from app.validation import expectation, quote


def error_lines(error: Exception) -> list[str]:
    """Each problem once: the first of a refusal stands in its headline already."""
    match error:
        case ApiError():
            details = (problem_line(detail) for detail in error.details)
            return [f"{error.code}: {error.message}", *(line for line in details if line.strip() not in error.message)]
        case ValidationError():
            return list(_setting_lines(error))
    return [str(error)]


def _setting_lines(error: ValidationError) -> Iterator[str]:
    """A variable by its name; only values that can hold no password are quoted."""
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
