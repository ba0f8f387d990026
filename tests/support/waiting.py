"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = 30.0) -> T:
    """The probe's first true answer. Fails the test when none comes in time."""
    deadline, pause = time.monotonic() + seconds, 0.005
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    raise AssertionError(f"{what}: not within {seconds} s")
