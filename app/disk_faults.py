"""Recognises errors of a disk that is full, over its quota or read-only.

They are recognised by the error number of the kernel, SQLite or PostgreSQL, also if another exception wraps them.
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
# SQLite also raises these if a file beside the database cannot be created or cannot grow.
SQLITE_VAGUE = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
# The low byte of SQLite's code is the kind of error; the rest says what was read or written.
SQLITE_PRIMARY = 0xFF
# More than SQLite's smallest file, its shared memory, needs at once.
PROBE_BYTES = 1 << 16


def is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Return whether the error was caused by a full disk.

    SQLite's error does not always tell. Then a test block is written to `folder`, where its database is.
    """
    return any(number in NO_ROOM for number in _numbers(error, folder))


def is_read_only(error: BaseException, folder: Path | None = None) -> bool:
    """Return whether the error was caused by a read-only file system or database."""
    return errno.EROFS in _numbers(error, folder)


def describe(error: OSError) -> str | None:
    """Return a sentence for the operator, or None if the disk did not cause the error."""
    if is_full(error):
        return f"the disk is full: there is no room for {error.filename or 'what is written'}"
    return f"the disk is read-only: {error.filename}" if is_read_only(error) else None


def _numbers(error: BaseException, folder: Path | None) -> set[int]:
    """Return the kernel's error numbers of the error and of its causes."""
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
    """Write a test block. Returns the kernel's error number, or None if it was written."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            is_cut = probe.write(b"\0" * PROBE_BYTES) < PROBE_BYTES
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno
    return errno.ENOSPC if is_cut else None
