"""A lock on a file that lasts as long as its holders: the kernel frees it at any death, so none is ever stale."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.05


class CannotStart(Exception):
    """Something that the operator has to know and can change; the message is one line for a person."""


@contextmanager
def hold_lock(path: Path, refusal: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold the lock and yield its descriptor; a process that inherits the descriptor holds it too.

    Raises `CannotStart` with the refusal when the lock is not free within the wait.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while not _take(lock):
            if time.monotonic() >= deadline:
                raise CannotStart(refusal)
            time.sleep(POLL_SECONDS)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
