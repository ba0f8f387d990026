"""What reading one row turned up beside the record: problems, fixes, warnings and keys that have no use."""

import math
from dataclasses import dataclass, field
from typing import Any

from app.datasets.values import describe, printable
from app.errors import Problem

# Of one row, so that a row of a million bad turns stays small in memory; all of them are counted.
MOST_PROBLEMS = 50
DEEPEST_NESTING = 64
# Of a key, in the path to a value.
LONGEST_KEY = 60
SURROGATES = range(0xD800, 0xE000)
# What may be worth a look in a record that is good; each becomes a notice of the job.
WARNINGS = {
    "trailing_turns": "the turns after the last answer are left out: nothing would be learned of them",
    "json_as_text": "a text that holds a conversation as JSON is taken as it stands, as text",
}


@dataclass(slots=True)
class RowIssues:
    """Collects as the row is read. A row is good when there is no problem; what was read of it counts only then."""

    record: int
    line: int | None
    is_arrow: bool = False
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    fixes: dict[str, int] = field(default_factory=dict)
    warnings: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)

    def wrong(self, where: str, code: str, found: str, expected: str) -> None:
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

    def has_wrong(self, place: str) -> bool:
        """Whether a problem is named there already: what follows from it is no problem of its own."""
        return any((problem.field or "").startswith(place) for problem in self.problems)

    def fix(self, code: str, count: int = 1) -> None:
        self.fixes[code] = self.fixes.get(code, 0) + count

    def text(self, value: Any, where: str) -> str:
        """The value, which has to be text; NUL is taken out and counted."""
        if not isinstance(value, str):
            self.wrong(where, "wrong_type", describe(value), "text")
            return ""
        if is_clean(value):
            return value
        surrogate = next((char for char in value if ord(char) in SURROGATES), None)
        if surrogate is not None:
            found = f"U+{ord(surrogate):04X}: half a character, or a byte that is not UTF-8"
            self.wrong(where, "invalid_unicode", found, "whole characters in UTF-8")
        return self._without_nul(value)

    def optional_text(self, value: Any, where: str) -> str | None:
        """Text, or None for null and for text of white space only."""
        text = self.text(value, where) if value is not None else ""
        return text if text.strip() else None

    def json(self, value: Any, where: str, depth: int = 0) -> Any:
        """The same JSON value, every text in it checked. Null keys from Arrow are other rows' keys: left out."""
        if depth > DEEPEST_NESTING:
            self.wrong(where, "too_deep", f"more than {DEEPEST_NESTING} levels", "a flatter value")
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
                self.wrong(where, "wrong_type", describe(value), "a finite number")
            case None | bool() | int() | float():
                return value
            case _:
                self.wrong(where, "wrong_type", describe(value), "a JSON value")
        return None

    def _without_nul(self, value: str) -> str:
        if "\0" not in value:
            return value
        self.fix("nul_removed", value.count("\0"))
        return value.replace("\0", "")


def is_clean(text: str) -> bool:
    """Whether it has whole characters only, and no NUL: it can be taken as it is."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
