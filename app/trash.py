"""What is swept from the disk is kept for a week: an operator who restores an older database loses nothing by it.

    jobs/.trash/2026-11-30/job-…        it is put back by moving it to jobs/

Each folder has its own, so that nothing is copied where an operator keeps one of them on another disk.
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
    """Move it to the trash of its folder, and say where it is. Raises FileNotFoundError when it is gone."""
    day = path.parent / TRASH / utc_now().date().isoformat()
    day.mkdir(parents=True, exist_ok=True)
    target = day / path.name
    if target.exists() or target.is_symlink():
        target = day / f"{path.name}-{secrets.token_hex(4)}"
    path.rename(target)
    return target


def empty(folder: Path) -> list[Path]:
    """Remove for good what was thrown away more than a week ago. Returns the days that are gone."""
    last = utc_now().date() - KEPT
    old = [day for day in folder.glob(f"{TRASH}/*") if DAY.fullmatch(day.name) and _date(day.name) < last]
    for day in old:
        shutil.rmtree(day, ignore_errors=True)
    return [day for day in old if not day.exists()]


def _date(name: str) -> date:
    try:
        return date.fromisoformat(name)
    except ValueError:  # the 31st of June: nothing of ours
        return date.max
