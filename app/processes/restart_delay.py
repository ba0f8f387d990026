"""The delay before a process that has ended by itself is restarted. It doubles each time."""

from collections.abc import Sequence

FIRST_DELAY_SECONDS = 0.5
RESTARTS_A_MINUTE = 5


def restart_delay(deaths: Sequence[float], now: float) -> float:
    """Return the seconds to wait after the last of these deaths: twice as long each time, at most RESTARTS_A_MINUTE."""
    recent = [death for death in deaths if now - death < 60]
    delay: float = FIRST_DELAY_SECONDS * 2 ** (len(recent) - 1)
    return delay if len(recent) < RESTARTS_A_MINUTE else max(delay, recent[-RESTARTS_A_MINUTE] + 60 - now)
