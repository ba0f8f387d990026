"""What a trainer is asked by signals, and the timer that ends it when nobody renews its lease.

SIGUSR1: write a checkpoint and go on. SIGTERM: write one and stop. Both take effect at the next step boundary; handlers
only set flags. Before a training has begun there is nothing to keep: SIGTERM ends the process, SIGUSR1 is ignored.
Behind a training both are ignored: an interpreter that ends gives signals their default actions back, which kill.
"""

import os
import signal
import threading
from dataclasses import dataclass
from types import FrameType

from app.processes.guardian_process import LEASE_FD, LEASE_SECONDS

# The exit code of a trainer that stopped as it was asked to, behind a checkpoint (sysexits.h: EX_TEMPFAIL).
INTERRUPTED = 75


@dataclass
class Requests:
    """What was asked for and has not been done."""

    checkpoint: bool = False
    stop: bool = False

    def wait_for_training(self) -> None:
        """Until `listen`, SIGUSR1 is ignored and SIGTERM ends the process."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def listen(self) -> None:
        """From now on both signals are remembered. Main thread only."""
        signal.signal(signal.SIGUSR1, self._on_checkpoint)
        signal.signal(signal.SIGTERM, self._on_stop)

    def close(self) -> None:
        """The work is done: neither signal changes how the process ends."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _on_checkpoint(self, _number: int, _frame: FrameType | None) -> None:
        self.checkpoint = True

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True


def keep_lease(fd: int, seconds: float) -> None:
    """Let the kernel end this process by SIGALRM `seconds` after the last byte that came through a pipe.

    The signal keeps its default action, which needs no turn of the interpreter: a call that holds it is ended too. The
    end of the pipe renews nothing. Processes forked from this one have no timer; one that it becomes by exec keeps it.
    """
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    threading.Thread(target=_renew, args=(fd, seconds), name="lease", daemon=True).start()


def _renew(fd: int, seconds: float) -> None:
    while os.read(fd, 1):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def lease_of(environment: dict[str, str]) -> tuple[int, float] | None:
    """(descriptor, seconds) where a guardian set both, else None."""
    if LEASE_FD not in environment or LEASE_SECONDS not in environment:
        return None
    return int(environment[LEASE_FD]), float(environment[LEASE_SECONDS])
