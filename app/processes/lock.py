"""A lock on a file that lasts as long as its holders: the kernel frees it at any death, so none is ever stale."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.05


class CannotStart(Exception):
    """Something that the operator has to know and can change; the message is one line for a person."""


class Interrupted(CannotStart):
    """A signal asked to stop before the start was over."""


@contextmanager
def hold_lock(path: Path, refusal: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock and yield its descriptor; a process that inherits the descriptor holds it too.

    Raises `CannotStart` with the refusal when the lock is not free within the wait.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_for_lock(lock, wait_seconds):
            raise CannotStart(refusal)
        yield lock
    finally:
        os.close(lock)


def wait_for_lock(descriptor: int, wait_seconds: float, *, is_shared: bool = False) -> bool:
    """`try_lock`, again and again for so many seconds."""
    deadline = time.monotonic() + wait_seconds
    while not try_lock(descriptor, is_shared=is_shared):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock the file of an open descriptor if that is possible now: for itself alone, or beside other shared holders."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    return False


def keeps_locks(folder: Path) -> bool:
    """Whether locks on files of a folder keep anybody out: some network file systems take them and do nothing."""
    with tempfile.NamedTemporaryFile(dir=folder) as file, open(file.name) as same:
        try:
            return try_lock(file.fileno()) and not try_lock(same.fileno())
        except OSError:  # ENOLCK, EOPNOTSUPP
            return False
