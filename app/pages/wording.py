"""How pages show numbers, sizes and times."""

import json
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

NONE = "–"
UNITS = ("bytes", "kB", "MB", "GB", "TB")
MINUTE, HOUR, DAY = 60, 3600, 86400


def number(value: float | None) -> str:
    """Return a number with four digits that count, or whole with separators."""
    if value is None:
        return NONE
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def size(value: float | None) -> str:
    """Return a number of bytes in the largest unit that leaves a number of at least 1."""
    if value is None:
        return NONE
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return NONE


def duration(seconds: float | None) -> str:
    """Return seconds as two units at most, such as `2 h 5 min`."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def ago(value: datetime | None) -> str:
    """Return how long ago a moment was."""
    if value is None:
        return NONE
    seconds = (datetime.now(UTC) - value).total_seconds()
    return "now" if seconds < 1 else f"{duration(max(1, seconds))} ago"


def moment(value: datetime | None) -> str:
    return NONE if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def since(value: datetime) -> Markup:
    """Return how long ago a moment was, as an element that also has the moment itself."""
    element = Markup('<time datetime="{}" title="{}">{}</time>')
    return element.format(value.isoformat(), moment(value), ago(value))


def pretty(value: Any) -> str:
    """Return a document as JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


FILTERS = {each.__name__: each for each in (number, size, duration, ago, moment, since, pretty)}
