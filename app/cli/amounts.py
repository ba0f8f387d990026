"""Times, sizes and figures in few characters."""

import re
from datetime import UTC, datetime, timedelta

import typer

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def age(since: datetime | None, now: datetime | None = None) -> str:
    """The largest unit of the time that has passed: `42s`, `7m`, `3h`, `12d`; `-` if there is no beginning."""
    if since is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - since).total_seconds()))
    unit = max((unit for unit in UNITS if seconds >= UNITS[unit]), key=UNITS.__getitem__, default="s")
    return f"{seconds // UNITS[unit]}{unit}"


def span(seconds: float | None) -> str:
    """`0:01:05`, or `-` if it is not known."""
    return "-" if seconds is None else str(timedelta(seconds=round(max(0.0, seconds))))


def size(count: int) -> str:
    """`12 kB`, `2.5 MB`, `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def figure(value: object, form: str = ".4g") -> str:
    """A number in few digits, or `-` for none."""
    return format(value, form) if isinstance(value, int | float) else "-"


def read_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `2h` or `1d`. Raises `typer.BadParameter`."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"found {text!r}, expected a duration such as 90s, 10m or 2h", param_hint="--timeout")
    number, unit = found.groups()
    return float(number) * UNITS[unit or "s"]
