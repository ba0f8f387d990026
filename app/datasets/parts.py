"""Reads message content that is a list of parts, as in OpenAI's format, and joins the texts with line breaks."""

from typing import Any

from app.datasets.row_issues import RowIssues
from app.datasets.values import describe, describe_missing

KEYS = ("type", "text")
EXPECTED = 'a part such as {"type": "text", "text": "…"}'


def read_parts(parts: list[Any], where: str, row_issues: RowIssues) -> str:
    return "\n".join(_text(part, f"{where}[{index}]", row_issues) for index, part in enumerate(parts))


def _text(part: Any, where: str, row_issues: RowIssues) -> str:
    if not isinstance(part, dict):
        row_issues.add_problem(where, "wrong_type", describe(part), EXPECTED)
        return ""
    kind = part.get("type")
    if kind is not None and kind != "text":
        row_issues.add_problem(f"{where}.type", "unsupported_part", describe(kind), "text")
        return ""
    missing = next((key for key in KEYS if part.get(key) is None), None)
    if missing is not None:
        found = describe_missing(part, missing, ("type", missing), is_arrow=row_issues.is_arrow)
        row_issues.add_problem(f"{where}.{missing}", "missing", found, EXPECTED)
        return ""
    return row_issues.text(part["text"], f"{where}.text")
