"""When a process that has ended by itself is started again: twice as late each time, so that it cannot loop."""

from collections.abc import Sequence

FIRST_DELAY_SECONDS = 0.5
RESTARTS_A_MINUTE = 5


def restart_delay(deaths: Sequence[float], now: float) -> float:
    """Seconds to wait after the last of these deaths: twice as long each time, and so many starts a minute at most."""
    recent = [death for death in deaths if now - death < 60]
    delay: float = FIRST_DELAY_SECONDS * 2 ** (len(recent) - 1)
    return delay if len(recent) < RESTARTS_A_MINUTE else max(delay, recent[-RESTARTS_A_MINUTE] + 60 - now)
