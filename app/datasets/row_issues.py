"""Collects the problems, fixes, warnings and ignored keys of one row."""

import math
from dataclasses import dataclass, field
from typing import Any

from app.datasets.values import describe, printable
from app.errors import Problem

# At most this many problems of one row are kept, to bound memory. All of them are counted.
MOST_PROBLEMS = 50
DEEPEST_NESTING = 64
# A longer key is cut in the path to a value.
LONGEST_KEY = 60
SURROGATES = range(0xD800, 0xE000)
# Warnings about good records. Each one becomes a notice of the job.
WARNINGS = {
    "trailing_turns": "the messages after the last answer are dropped, because they are not trained on",
    "json_as_text": "a text that contains a conversation as JSON is used unchanged, as plain text",
}


@dataclass(slots=True)
class RowIssues:
    """What was found while one row was read. The row is good, and its record may be used, if there is no problem."""

    record: int
    line: int | None
    is_arrow: bool = False
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    fixes: dict[str, int] = field(default_factory=dict)
    warnings: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)

    def add_problem(self, where: str, code: str, found: str, expected: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(
                Problem(
                    record=self.record,
                    line=self.line,
                    field=printable(where),
                    code=code,
                    found=found,
                    expected=expected,
                )
            )

    def warn(self, code: str) -> None:
        """`code` is one of WARNINGS."""
        self.warnings.add(code)

    def has_problem(self, place: str) -> bool:
        """Whether there is a problem at this place already, so that its consequences need not be reported."""
        return any((problem.field or "").startswith(place) for problem in self.problems)

    def fix(self, code: str, count: int = 1) -> None:
        self.fixes[code] = self.fixes.get(code, 0) + count

    def text(self, value: Any, where: str) -> str:
        """Returns the text without NUL characters. Adds a problem and returns "" if the value is not text."""
        if not isinstance(value, str):
            self.add_problem(where, "wrong_type", describe(value), "text")
            return ""
        if is_clean(value):
            return value
        surrogate = next((char for char in value if ord(char) in SURROGATES), None)
        if surrogate is not None:
            found = f"U+{ord(surrogate):04X}: half a character, or a byte that is not UTF-8"
            self.add_problem(where, "invalid_unicode", found, "whole characters in UTF-8")
        return self._without_nul(value)

    def optional_text(self, value: Any, where: str) -> str | None:
        """Returns the text, or None for null and for text of white space only."""
        text = self.text(value, where) if value is not None else ""
        return text if text.strip() else None

    def json(self, value: Any, where: str, depth: int = 0) -> Any:
        """Returns a copy of a JSON value with every text checked.

        Null keys from Arrow are removed: Arrow gives every row the keys of all rows.
        """
        if depth > DEEPEST_NESTING:
            self.add_problem(where, "too_deep", f"more than {DEEPEST_NESTING} levels", "a flatter value")
            return None
        match value:
            case str():
                return self.text(value, where)
            case list():
                return [self.json(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
            case dict():
                kept = {key: item for key, item in value.items() if item is not None or not self.is_arrow}
                if len(kept) < len(value):
                    self.fix("null_keys_removed", len(value) - len(kept))
                return {
                    self.text(key, where): self.json(item, f"{where}.{str(key)[:LONGEST_KEY]}", depth + 1)
                    for key, item in kept.items()
                }
            case float() if not math.isfinite(value):
                self.add_problem(where, "wrong_type", describe(value), "a finite number")
            case None | bool() | int() | float():
                return value
            case _:
                self.add_problem(where, "wrong_type", describe(value), "a JSON value")
        return None

    def _without_nul(self, value: str) -> str:
        if "\0" not in value:
            return value
        self.fix("nul_removed", value.count("\0"))
        return value.replace("\0", "")


def is_clean(text: str) -> bool:
    """Whether the text has no NUL and no lone surrogate, so that it can be used unchanged."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
