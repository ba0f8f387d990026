"""Keeps a set of processes running: starts them tier by tier, restarts them when they end, stops them in reverse order.

Signals are blocked and polled instead of handled, because a handler can run at any point of the program.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from app.processes.guardian import Guarded
from app.processes.restart_delay import RESTARTS_A_MINUTE, restart_delay

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.1
CHORE_SECONDS = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """A process that must run all the time."""

    name: str
    start: Callable[[], Guarded]


class ProcessGroup:
    """All services. Leaving its `with` block ends all of them."""

    def __init__(self, tiers: Sequence[Sequence[Service]], say: Say) -> None:
        self._plan, self._say = tiers, say
        self._tiers: list[list[_ManagedProcess]] = []
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for services in self._plan:
                self._tiers.append([stack.enter_context(_ManagedProcess(service, self._say)) for service in services])
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def has(self, name: str) -> bool:
        return any(service.name == name for services in self._plan for service in services)

    def is_alive(self, name: str) -> bool:
        return all(member.is_alive() for tier in self._tiers for member in tier if member.name == name)

    def keep_running(self, chore: Callable[[], None]) -> None:
        """Restart processes that end, until a signal to stop arrives. Calls `chore` every `CHORE_SECONDS`."""
        due = time.monotonic()
        while not is_asked_to_stop(POLL_SECONDS):
            if time.monotonic() >= due:
                chore()
                due = time.monotonic() + CHORE_SECONDS
            for tier in self._tiers:
                for member in tier:
                    member.tend(time.monotonic())

    def stop(self) -> None:
        """Stop each tier, the last first, and wait for it. A second signal ends the waiting."""
        for tier in reversed(self._tiers):
            for member in tier:
                member.stop()
            while any(member.is_alive() for member in tier):
                if is_asked_to_stop(POLL_SECONDS):
                    return


class _ManagedProcess:
    """One service and its current process."""

    def __init__(self, service: Service, say: Say) -> None:
        self.name = service.name
        self._start, self._say = service.start, say
        self._process = service.start()
        self._deaths: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)
        self._due: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.stop()

    def tend(self, now: float) -> None:
        """Restart the process after a delay if it has ended."""
        if self._due is not None and now >= self._due:
            self._process, self._due = self._start(), None
        elif self._due is None and (code := self._process.poll()) is not None:
            self._deaths.append(now)
            wait_seconds = restart_delay(list(self._deaths), now)
            self._due = now + wait_seconds
            self._say(f"{self.name} ended with code {code}; it starts again in {wait_seconds:.1f} s")


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Block the signals to stop inside this context, until `is_asked_to_stop` takes them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_asked_to_stop(wait_seconds: float) -> bool:
    """Wait for a signal to stop, take it, and return whether there was one."""
    return signal.sigtimedwait(STOPPING, wait_seconds) is not None
