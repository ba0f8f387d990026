"""Retries writes that must not be lost while the database is unavailable."""

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from app.database.connection import AWAY

RETRY_SECONDS = 1.0
# On shutdown, give up storing after this long; the next owner of the job recovers the events from disk.
SHUTDOWN_PATIENCE_SECONDS = 3.0
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def retry_until_stored(work: Callable[[], Result], stopping: Event) -> Result:
    """Repeat `work` until the database accepts it, and return its result.

    `work` must be safe to repeat: a commit may have succeeded although its confirmation was lost. Raises one of AWAY
    if the process is to stop and the database stays unavailable.
    """
    ends_at: float | None = None
    while True:
        try:
            return work()
        except AWAY as error:
            if stopping.is_set():
                ends_at = ends_at or time.monotonic() + SHUTDOWN_PATIENCE_SECONDS
                if time.monotonic() >= ends_at:
                    raise
            log.warning("the database is unavailable: %s", type(error).__name__)
            time.sleep(RETRY_SECONDS)
