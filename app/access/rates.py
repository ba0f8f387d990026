"""Limits requests a minute, in the memory of each process: a bucket that fills at the rate of the limit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.access.quotas import Quota

MOST_BUCKETS = 10_000
SECONDS = 60.0


@dataclass
class RequestBucket:
    """The requests that may be made now, and when that was counted."""

    left: float
    at: float


class RequestRates:
    """`processes` share each limit evenly: requests are spread over them by the kernel."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._buckets: dict[str, RequestBucket] = {}

    def count(self, quotas: Sequence[Quota]) -> None:
        """Count one request. Raises TooMany if one of the limits is reached."""
        now = time.monotonic()
        for quota in quotas:
            most = max(1.0, quota.most / self._processes)
            bucket = self._buckets.setdefault(quota.of, RequestBucket(most, now))
            bucket.left = min(most, bucket.left + (now - bucket.at) * most / SECONDS)
            bucket.at = now
            if bucket.left < 1:
                seconds = int((1 - bucket.left) * SECONDS / most) + 1
                raise quota.refusal("more requests in the last minute", seconds)
            bucket.left -= 1
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets = {of: one for of, one in self._buckets.items() if now - one.at < SECONDS}
