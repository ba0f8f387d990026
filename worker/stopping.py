"""The signals by which a trainer is asked to save or stop, and the timer that kills it when its lease is not renewed.

SIGUSR1: write a checkpoint and continue. SIGTERM: write one and stop. Both take effect at the end of the current step;
the handlers only set flags. Before a training has begun there is nothing to save: SIGTERM ends the process, SIGUSR1 is
ignored. After a training both are ignored: an interpreter that exits restores the default actions, which kill.
"""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from app.processes.guardian_process import LEASE_FD, LEASE_SECONDS

# The exit code of a trainer that saved a checkpoint and stopped, as it was asked to (sysexits.h: EX_TEMPFAIL).
INTERRUPTED = 75


@dataclass
class Requests:
    """What was requested by a signal and is not done yet."""

    checkpoint: bool = False
    stop: bool = False

    def wait_for_training(self) -> None:
        """Until `listen`, SIGUSR1 is ignored and SIGTERM ends the process."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def listen(self) -> None:
        """From now on both signals set their flags. Call it in the main thread."""
        signal.signal(signal.SIGUSR1, self._on_checkpoint)
        signal.signal(signal.SIGTERM, self._on_stop)

    def close(self) -> None:
        """The work is done: from now on both signals are ignored."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _on_checkpoint(self, _number: int, _frame: FrameType | None) -> None:
        self.checkpoint = True

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True


def keep_lease(fd: int, seconds: float) -> None:
    """Let the kernel kill this process by SIGALRM `seconds` after the last byte that came through the pipe `fd`.

    SIGALRM keeps its default action, so the process dies even while a C call blocks the interpreter. The end of the
    pipe renews nothing. A forked child does not inherit the timer; after exec this process keeps it.
    """
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    threading.Thread(target=_renew, args=(fd, seconds), name="lease", daemon=True).start()


def wait_for_renewal(fd: int) -> None:
    """Forget the bytes that wait in the pipe, which may be old, and return when another one comes."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
    os.set_blocking(fd, True)
    os.read(fd, 1)


def _renew(fd: int, seconds: float) -> None:
    while os.read(fd, 1):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def lease_of(environment: dict[str, str]) -> tuple[int, float] | None:
    """The pipe's descriptor and the seconds. Returns None unless a guardian set both variables."""
    if LEASE_FD not in environment or LEASE_SECONDS not in environment:
        return None
    return int(environment[LEASE_FD]), float(environment[LEASE_SECONDS])
