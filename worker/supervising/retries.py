"""Writes that must not be lost while the database is away for a while."""

import logging
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from app.database.connection import AWAY

RETRY_SECONDS = 1.0
# A process that is to end leaves what it could not store to whoever takes its job over.
PATIENCE_AT_THE_END_SECONDS = 3.0
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def retry_until_stored(work: Callable[[], Result], stopping: Event) -> Result:
    """Do it until the database takes it. `work` has to be safe to repeat: its commit may have gone well unheard.

    Raises one of AWAY when the process is to stop and the database stays away.
    """
    ends_at: float | None = None
    while True:
        try:
            return work()
        except AWAY as error:
            if stopping.is_set():
                ends_at = ends_at or time.monotonic() + PATIENCE_AT_THE_END_SECONDS
                if time.monotonic() >= ends_at:
                    raise
            log.warning("the database is away: %s", type(error).__name__)
            time.sleep(RETRY_SECONDS)
