"""Content that comes in parts, as OpenAI's does: the texts of them, joined by line breaks."""

from typing import Any

from app.files.findings import Findings
from app.files.values import describe, lacking

KEYS = ("type", "text")
EXPECTED = 'a part such as {"type": "text", "text": "…"}'


def read_parts(parts: list[Any], where: str, findings: Findings) -> str:
    return "\n".join(_text(part, f"{where}[{index}]", findings) for index, part in enumerate(parts))


def _text(part: Any, where: str, findings: Findings) -> str:
    if not isinstance(part, dict):
        findings.wrong(where, "wrong_type", describe(part), EXPECTED)
        return ""
    kind = part.get("type")
    if kind is not None and kind != "text":
        findings.wrong(f"{where}.type", "unsupported_part", describe(kind), "text")
        return ""
    missing = next((key for key in KEYS if part.get(key) is None), None)
    if missing is not None:
        found = lacking(part, missing, ("type", missing), is_arrow=findings.is_arrow)
        findings.wrong(f"{where}.{missing}", "missing", found, EXPECTED)
        return ""
    return findings.text(part["text"], f"{where}.text")
