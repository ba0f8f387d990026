"""Reads JSON Lines, and also objects that span several lines. A damaged object does not hide the next one."""

import re
from collections.abc import Iterator
from typing import TextIO

from app.datasets.rows import LONGEST_RECORD, RawRow, Rows, numbered_lines, too_long
from app.datasets.strict_json import JsonFault, parse
from app.errors import Problem

# A string. The group is empty if the string is not closed. The pattern never backtracks.
STRING = re.compile(r'"(?:[^"\\]|\\.|\\\Z)*+("?)', re.DOTALL)
STRAY_QUOTE = '"'
SPACE = " \t\r\n"
Line = tuple[int, str]


def read_json_lines(text: TextIO) -> Rows:
    """Yields the rows in file order, and a Problem in place of each record that cannot be read."""
    lines = numbered_lines(text)
    start = next(lines, None)
    number = 0
    while start is not None:
        line, first = start
        start = None
        if first.strip():
            number += 1
            try:
                yield RawRow(number, line, parse(first))
            except JsonFault:
                block, start = _gather(first, line, lines)
                yield _parsed(number, line, block)
        start = start or next(lines, None)


def _parsed(number: int, line: int, block: str) -> RawRow | Problem:
    try:
        return RawRow(number, line, parse(block.rstrip(SPACE)))
    except JsonFault as fault:
        reason = fault.reason if fault.line == 1 else f"{fault.reason}, in line {fault.line} of the record"
        return damaged(number, line, fault.column, reason)


def damaged(number: int, line: int, column: int, reason: str) -> Problem:
    found = f"column {column}: {reason}"
    return Problem(record=number, line=line, code="invalid_json", found=found, expected="one JSON object per line")


def _gather(first: str, number: int, lines: Iterator[Line]) -> tuple[str, Line | None]:
    """Returns the text of an object that begins with `first`, and the next line if it was read already.

    A JSON string contains no line break, so an open string means a damaged line, not an unfinished object.
    """
    parts, size, depth = [first], len(first), _depth(first)
    if depth is None or depth <= 0:
        return first, None
    for line in lines:
        inside = _depth(line[1])
        if inside == 0 and line[1].startswith("{"):
            return "".join(parts), line
        parts.append(line[1])
        size += len(line[1])
        if size > LONGEST_RECORD:
            raise too_long(number)
        if inside is None:
            return "".join(parts), _next_object(lines)
        depth += inside
        if depth <= 0:
            break
    return "".join(parts), None


def _depth(line: str) -> int | None:
    """Returns opening minus closing brackets of a line, or None if a string is not closed."""
    bare = STRING.sub(lambda string: "" if string[1] else STRAY_QUOTE, line)
    if STRAY_QUOTE in bare:
        return None
    return bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")


def _next_object(lines: Iterator[Line]) -> Line | None:
    return next((line for line in lines if line[1].startswith("{")), None)
