"""A lock on a file. The kernel releases it when the last process that holds it ends, so it is never stale."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.05


class CannotStart(Exception):
    """A program cannot start for a reason that the operator can change. The message is one line for the operator."""


class Interrupted(CannotStart):
    """A signal to stop arrived before the start was complete."""


@contextmanager
def hold_lock(path: Path, refusal: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock and yield its descriptor; a process that inherits the descriptor holds it too.

    Raises `CannotStart` with the message `refusal` if the lock is not free within `wait_seconds`.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_for_lock(lock, wait_seconds):
            raise CannotStart(refusal)
        yield lock
    finally:
        os.close(lock)


def wait_for_lock(descriptor: int, wait_seconds: float, *, is_shared: bool = False) -> bool:
    """Try to lock for at most `wait_seconds`. Returns whether the file is locked."""
    deadline = time.monotonic() + wait_seconds
    while not try_lock(descriptor, is_shared=is_shared):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock the file of an open descriptor if that is possible now. `is_shared`: others may hold it shared as well."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


def keeps_locks(folder: Path) -> bool:
    """Return whether file locks work in a folder: some network file systems accept them without effect."""
    with tempfile.NamedTemporaryFile(dir=folder) as file, open(file.name) as same:
        try:
            return try_lock(file.fileno()) and not try_lock(same.fileno())
        except OSError:  # ENOLCK, EOPNOTSUPP
            return False
