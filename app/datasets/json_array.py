"""Reads a JSON array of records with a buffer that holds only a few of them at a time."""

from typing import Any, NoReturn, TextIO

from app.datasets.json_lines import damaged
from app.datasets.rows import LONGEST_RECORD, RawRow, Rows, too_long, unreadable
from app.datasets.strict_json import UNTERMINATED, JsonFault, parse_at
from app.errors import Problem

CHUNK_CHARACTERS = 64 * 1024
SPACE = " \t\r\n"
# A fault this close to the end of the buffer may be a literal or an escape that the buffer's end cuts in two.
LONGEST_TOKEN = 16


def read_json_array(text: TextIO) -> Rows:
    """Yields the rows in file order. Raises InvalidDataset, with line and column, at the first damaged record."""
    window = _Window(text)
    window.expect("[")
    number = 0
    while window.peek() != "]":
        number += 1
        if number > 1:
            window.expect(",", number)
        window.peek()
        line = window.line
        yield RawRow(number, line, window.value(number))
    window.expect("]")
    if window.peek():
        window.fail("more text after the array", number)


class _Window:
    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer = ""
        self._at = 0
        self._line_start = 0
        self._is_over = False
        self.line = 1

    def peek(self) -> str:
        """Returns the next character that is not white space, or "" at the end of the file."""
        while True:
            end = self._at
            while end < len(self._buffer) and self._buffer[end] in SPACE:
                end += 1
            self._advance(end)
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._is_over:
                return ""
            self._read()

    def expect(self, expected: str, number: int | None = None) -> None:
        found = self.peek()
        if found != expected:
            reason = f"expected {expected!r} or the end of the array" if found else "the array is not closed"
            self.fail(reason, number)
        self._advance(self._at + 1)

    def value(self, number: int) -> Any:
        while True:
            try:
                value, end = parse_at(self._buffer, self._at)
            except JsonFault as fault:
                end = len(self._buffer)
                if self._is_over or not self._may_be_cut(fault):
                    self._advance(self._at if fault.position is None else fault.position)
                    self.fail(fault.reason, number)
            else:
                if end < len(self._buffer) or self._is_over:
                    self._check_length(end)
                    self._advance(end)
                    return value
            self._check_length(end)
            self._read()

    def _check_length(self, end: int) -> None:
        if end - self._at > LONGEST_RECORD:
            raise too_long(self.line)

    def fail(self, reason: str, number: int | None) -> NoReturn:
        problem = damaged(number or 1, self.line, self._at - self._line_start + 1, reason)
        raise unreadable(Problem(**{**problem.model_dump(), "expected": "a complete JSON array of objects"}))

    def _may_be_cut(self, fault: JsonFault) -> bool:
        at_end = fault.position is not None and fault.position >= len(self._buffer) - LONGEST_TOKEN
        return at_end or fault.reason == UNTERMINATED

    def _read(self) -> None:
        """Doubles the buffer, so that a long record is parsed only a few times."""
        kept = self._buffer[self._at :]
        self._line_start -= self._at
        self._at = 0
        more = self._text.read(max(CHUNK_CHARACTERS, len(kept)))
        self._is_over = not more
        self._buffer = kept + more

    def _advance(self, end: int) -> None:
        breaks = self._buffer.count("\n", self._at, end)
        if breaks:
            self.line += breaks
            self._line_start = self._buffer.rfind("\n", self._at, end) + 1
        self._at = end
