"""Text for a terminal: what datasets and jobs contain cannot move the cursor, change colours or the text direction."""

import re
from collections.abc import Mapping
from typing import Any

# Control characters except tab and newline; surrogates; line separators; characters that change the text direction.
HOSTILE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with every hostile character as its escape: `\x1b`, `\u202e`."""
    return HOSTILE.sub(lambda found: _escape(ord(found.group())), text)


def in_line(text: str) -> str:
    """As `visible`, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def problem_line(detail: Mapping[str, Any]) -> str:
    """`record 3, line 7, messages.0: found 12, expected a string`."""
    places = [f"{name} {detail[name]}" for name in ("record", "line") if detail.get(name) is not None]
    places += [detail["field"]] if detail.get("field") is not None else []
    reason = [f"{name} {detail[name]}" for name in ("found", "expected") if detail.get(name) is not None]
    return in_line(f"  {', '.join(places)}: {', '.join(reason)}")


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
