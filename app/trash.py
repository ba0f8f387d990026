"""The trash keeps what is swept from the disk for a week, in case an operator restores an older database.

    jobs/.trash/2026-11-30/job-…        move it back to jobs/ to restore it

Each folder has its own trash, so that files are only renamed, even if a folder is on another disk.
"""

import re
import secrets
import shutil
from datetime import date, timedelta
from pathlib import Path

from app.database.connection import utc_now

TRASH = ".trash"
KEPT = timedelta(days=7)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def throw(path: Path) -> Path:
    """Move a path to the trash of its folder, and return its new path. Raises FileNotFoundError if it is gone."""
    day = path.parent / TRASH / utc_now().date().isoformat()
    day.mkdir(parents=True, exist_ok=True)
    target = day / path.name
    if target.exists() or target.is_symlink():
        target = day / f"{path.name}-{secrets.token_hex(4)}"
    path.rename(target)
    return target


def empty(folder: Path) -> list[Path]:
    """Delete what was thrown away more than a week ago. Returns the removed folders, one for each day."""
    last = utc_now().date() - KEPT
    old = [day for day in folder.glob(f"{TRASH}/*") if DAY.fullmatch(day.name) and _date(day.name) < last]
    for day in old:
        shutil.rmtree(day, ignore_errors=True)
    return [day for day in old if not day.exists()]


def _date(name: str) -> date:
    try:
        return date.fromisoformat(name)
    except ValueError:  # such as the 31st of June, which `throw` never writes
        return date.max
