"""Replaces secrets in logs: those that a process knows, and texts that look like one.

It is the last of several precautions: a secret is in no message in the first place, and only the process that needs one
has it. Libraries may print one nevertheless.
"""

import json
import logging
import re
from collections.abc import Iterable
from urllib.parse import quote

SHOWN = "[redacted]"
# Tokens of the hub, secrets of webhooks, keys of this service.
PATTERNS = r"hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|whsec_[A-Za-z0-9+/=]{20,}|ts_[A-Za-z0-9_-]{32,}"
# A shorter value may be a part of words.
LEAST_CHARACTERS = 6
# A token that is cut is found again with what follows. The longest of PATTERNS are much shorter.
LONGEST_PATTERN = 512


class Redactor:
    """Knows secrets by their values, as they are and as JSON, Python and URLs write them, and by their looks."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Know further secrets from now on."""
        self._values |= {form for value in values for form in _forms(value)}
        known = [re.escape(form) for form in sorted(self._values, key=len, reverse=True)]
        text = "|".join([*known, PATTERNS])
        self._text, self._bytes = re.compile(text), re.compile(text.encode())
        self.longest = max([LONGEST_PATTERN, *map(len, self._values)])

    def text(self, text: str) -> str:
        return self._text.sub(SHOWN, text)

    def mask(self, content: bytes) -> bytes:
        """Replace secrets by as many bytes, so that offsets into the content stay what they are."""
        return self._bytes.sub(lambda found: _as_long_as(found.group()), content)


def _forms(value: str) -> set[str]:
    forms = {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")}
    return {form for form in forms if len(form) >= LEAST_CHARACTERS and form.isascii()}


def _as_long_as(secret: bytes) -> bytes:
    shown = SHOWN.encode()
    return shown.ljust(len(secret), b"*") if len(secret) >= len(shown) else b"*" * len(secret)


class RedactingFormatter(logging.Formatter):
    """Formats as another formatter does, traces included, and replaces secrets in the result."""

    def __init__(self, inner: logging.Formatter, redactor: Redactor) -> None:
        super().__init__()
        self._inner, self._redactor = inner, redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.text(self._inner.format(record))


# The redactor of this process.
REDACTOR = Redactor()


def redact_logs(values: Iterable[str]) -> None:
    """Replace these secrets in all logs of this process. Call it once the handlers of the logs are there."""
    REDACTOR.add(values)
    others = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for handler in (handler for logger in (logging.root, *others) for handler in logger.handlers):
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter or logging.Formatter(), REDACTOR))
