"""Which errors say that a disk takes nothing more: it is full, a quota is used up, or it is read-only.

An error speaks by its number, whoever wraps it: the kernel's, SQLite's or PostgreSQL's.
"""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
POSTGRES = {"53100": errno.ENOSPC, "25006": errno.EROFS}  # by SQLSTATE
SQLITE = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
# What SQLite says as well where a file beside the database cannot be made or grow.
SQLITE_VAGUE = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
# The low byte of SQLite's code; the rest of it says what was read or written.
SQLITE_PRIMARY = 0xFF
# More than SQLite's smallest file, its shared memory, needs at once.
PROBE_BYTES = 1 << 16


def is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether the error comes of a disk without room.

    SQLite does not always name it; then a block is written to `folder`, where its database is, to learn it.
    """
    return any(number in NO_ROOM for number in _numbers(error, folder))


def is_read_only(error: BaseException, folder: Path | None = None) -> bool:
    """Whether the error comes of a file system, or a database, that takes no writes at all."""
    return errno.EROFS in _numbers(error, folder)


def describe(error: OSError) -> str | None:
    """A sentence for the operator; None where the error is no fault of a disk."""
    if is_full(error):
        return f"the disk is full: {error.filename or 'what is written'} finds no room"
    return f"the disk is read-only: {error.filename}" if is_read_only(error) else None


def _numbers(error: BaseException, folder: Path | None) -> set[int]:
    """All that is known of the error and of what it was raised from, as numbers of the kernel."""
    return {number for cause in _causes(error) if (number := _number(cause, folder)) is not None}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException, folder: Path | None) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorcode"):
        code = error.sqlite_errorcode & SQLITE_PRIMARY
        return _probe(folder) if code in SQLITE_VAGUE and folder is not None else SQLITE.get(code)
    return POSTGRES.get(str(getattr(error, "sqlstate", "")))  # psycopg's, which this module does not import


def _probe(folder: Path) -> int | None:
    """What the kernel says to a block more; None where it takes it."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            is_cut = probe.write(b"\0" * PROBE_BYTES) < PROBE_BYTES
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno
    return errno.ENOSPC if is_cut else None
