"""When a delivery that failed is tried again, when it is given up, and when its endpoint is."""

import random
from datetime import timedelta

FIRST_PAUSE_SECONDS = 5.0
FACTOR = 3
LONGEST_PAUSE_SECONDS = 9 * 3600.0
# With these pauses the last attempt is about 23 hours after the first.
MOST_ATTEMPTS = 11
JITTER = 0.2
# Once a delivery is given up, its endpoint is disabled if nothing was delivered for so long.
FAILS_AT_MOST = timedelta(days=3)


def pause_after(attempts: int) -> timedelta | None:
    """Return how long to wait after so many failed attempts, or None if there is no further one.

    The pauses differ by chance, so that an endpoint that is back is not asked for everything at once.
    """
    if attempts >= MOST_ATTEMPTS:
        return None
    seconds = min(FIRST_PAUSE_SECONDS * FACTOR ** (attempts - 1), LONGEST_PAUSE_SECONDS)
    return timedelta(seconds=seconds * random.uniform(1 - JITTER, 1 + JITTER))
