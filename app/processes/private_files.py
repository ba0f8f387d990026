"""Keeps what the service writes for its own user: no other user of the host reads specs, uploads, answers or logs.

Folders outside of the home, such as an operator's models, stay as they are.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from app.processes.guardian_process import UMASK

OTHERS = stat.S_IRWXG | stat.S_IRWXO
# The files of an SQLite database in WAL mode, by what is behind its name.
SQLITE_FILES = ("", "-wal", "-shm", "-journal")


def keep_private(home: Path, database_url: str) -> str | None:
    """The first thing that a process does. What an older version left open is closed: the home and the database.

    Returns a sentence for the operator where the home is open to others and this user may not change that.
    """
    os.umask(UMASK)
    if home.is_dir():
        _close(home)
    for path in _database_files(database_url):
        if path.is_file():
            _close(path)
    if home.is_dir() and _is_open(home):
        mode = stat.S_IMODE(home.stat().st_mode)
        return (
            f"other users of this host can open {home} (mode {mode:04o}), and this user may not change that: run "
            f"`chmod 0700 {home}` as its owner"
        )
    return None


def _close(path: Path) -> None:
    """Take from others what they may do, where this user may."""
    with suppress(OSError):
        if _is_open(path):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & OTHERS)


def _database_files(url: str) -> list[Path]:
    """None for a database that is no file."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database:
        return []
    return [Path(parts.database + suffix) for suffix in SQLITE_FILES]
