"""Makes files of the service private: other users of the host cannot read specs, uploads, answers or logs.

Folders outside of the home, such as the operator's models, are not changed.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from app.processes.guardian_process import UMASK

OTHERS = stat.S_IRWXG | stat.S_IRWXO
# The suffixes of the files of an SQLite database in WAL mode.
SQLITE_FILES = ("", "-wal", "-shm", "-journal")


def keep_private(home: Path, database_url: str) -> str | None:
    """Set the umask, and close the home and the database to other users. Every process calls this first.

    Returns a sentence for the operator if the home is open to others and this user may not change that.
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
    """Remove all permissions of other users, if this user may do that."""
    with suppress(OSError):
        if _is_open(path):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & OTHERS)


def _database_files(url: str) -> list[Path]:
    """Return the files of an SQLite database, or none for another database."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database:
        return []
    return [Path(parts.database + suffix) for suffix in SQLITE_FILES]
