"""The parent's side of a guardian: a small process between a parent and one command that always ends the command.

The guardian (`app.processes.guardian_process`) ends the command at its parent's order; when the pipe of orders closes,
which the kernel does even after `kill -9` of the parent; and when the command's lease expires, for example because the
parent is frozen. The kernel kills the command when the guardian dies.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from app.processes import guardian_process
from app.processes.guardian_process import CHECKPOINT, KILL, LEASE_FD, LEASE_SECONDS, ORDER, RENEW, STOP, Lease, Terms

__all__ = ["LEASE_FD", "LEASE_SECONDS", "Guarded", "Lease", "spawn"]

PROGRAM = guardian_process.__file__
# A process in an uninterruptible wait survives SIGKILL. Its guardian waits for it, but the parent continues.
KILL_WAIT_SECONDS = 10.0


class Guarded:
    """The parent's handle of a guarded command. Dropping it stops the command; leaving its `with` block kills it."""

    def __init__(self, guardian: subprocess.Popen[bytes], grace_seconds: float) -> None:
        self._guardian = guardian
        self._grace_seconds = grace_seconds
        self.pid = guardian.pid
        if guardian.stdin:  # a frozen guardian must not block its parent
            os.set_blocking(guardian.stdin.fileno(), False)

    def poll(self) -> int | None:
        """Return None until the command and all its descendants have ended, then its exit code: 128+n after signal n.

        A negative code -n means that the guardian itself was killed by signal n.
        """
        code = self._guardian.poll()
        if code is not None:
            self._close()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the code that `poll` returns. Raises `subprocess.TimeoutExpired`."""
        code = self._guardian.wait(timeout)
        self._close()
        return code

    def stop(self, grace_seconds: float | None = None) -> None:
        """Send SIGTERM to the command, and after its grace SIGKILL to its whole tree. Returns at once.

        `grace_seconds` replaces the grace that it was started with. If this is called again, the shorter grace counts.
        """
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        self._order(STOP, time.monotonic() + grace)

    def kill(self) -> None:
        """Send SIGKILL to the whole tree. Returns at once."""
        self._order(KILL)

    def abandon(self) -> None:
        """Kill a guardian that is frozen and obeys no order. The kernel kills its child with it.

        Processes that the child started may survive; they hold the slot until they are killed.
        """
        self._guardian.kill()

    def checkpoint(self) -> None:
        """Send SIGUSR1 to the command as a request for a checkpoint. It is started with this signal ignored."""
        self._order(CHECKPOINT)

    def renew(self, began: float | None = None) -> None:
        """Report a renewed lease, after the write that renews it is committed. Returns at once.

        `began` is `time.monotonic()` before that write was sent, when the lease begins. The default is now.
        """
        self._order(RENEW, began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self.wait(KILL_WAIT_SECONDS)

    def _order(self, order: bytes, at: float | None = None) -> None:
        # The pipe of a guardian that has ended is broken, or was closed by `poll`. Then no order is needed.
        with suppress(BrokenPipeError, ValueError):
            if self._guardian.stdin:
                self._guardian.stdin.write(ORDER.pack(order, time.monotonic() if at is None else at))

    def _close(self) -> None:
        if self._guardian.stdin:
            self._guardian.stdin.close()


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: Path | int | None = None,
    grace_seconds: float = 10.0,
    pass_fds: Sequence[int] = (),
    lease: Lease | None = None,
    is_waiting: bool = False,
    oom_score_adj: int | None = None,
) -> Guarded:
    """Start a command under a guardian.

    `env` replaces the environment, None inherits it. `output` is a file to which stdout and stderr are appended, or an
    open descriptor; None inherits both. `pass_fds` stay open in the guardian and in the command. A `lease` begins now,
    or with the first renewal if the command `is_waiting` for work. `oom_score_adj` is the command's, -1000 to 1000: the
    higher, the sooner the kernel kills it when memory is short (`man 5 proc`); it is no error if the kernel refuses it.
    A command that cannot be started ends with code 127.
    """
    terms = Terms(grace_seconds, oom_score_adj, lease, None if is_waiting else time.monotonic())
    log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if isinstance(output, Path) else output
    try:
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM, terms.dump(), *argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            bufsize=0,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    finally:
        if isinstance(output, Path) and log is not None:
            os.close(log)
    return Guarded(guardian, grace_seconds)
