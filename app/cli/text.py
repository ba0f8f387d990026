"""Text of others on a terminal: it can move no cursor, change no colour, and is read in the order it is stored in."""

import re

# Control characters but tab and newline; halves of characters; line separators; what turns the direction of text.
HOSTILE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with every hostile character as its escape: `\x1b`, `\u202e`."""
    return HOSTILE.sub(lambda found: _escape(ord(found.group())), text)


def in_line(text: str) -> str:
    """As `visible`, on one line."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
