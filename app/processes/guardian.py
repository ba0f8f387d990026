"""A small process between a parent and one command, so that no way of dying leaves a process behind.

The guardian (`app.processes.guardian_process`) ends the command when it is told to, when the pipe of orders closes,
which the kernel does even at `kill -9` of the parent, and when the lease that it was given runs out, which a frozen
parent cannot prevent. The kernel kills the command when the guardian dies. This module is the parent's side.
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
# A process in an uninterruptible wait outlives SIGKILL; its guardian stays with it, the parent goes on.
KILL_WAIT_SECONDS = 10.0


class Guarded:
    """The parent's handle on a guarded command. Dropping it stops the command; leaving its `with` block kills it."""

    def __init__(self, guardian: subprocess.Popen[bytes], grace_seconds: float) -> None:
        self._guardian = guardian
        self._grace_seconds = grace_seconds
        self.pid = guardian.pid
        if guardian.stdin:  # a frozen guardian must not block its parent
            os.set_blocking(guardian.stdin.fileno(), False)

    def poll(self) -> int | None:
        """The command's exit code once its whole tree is gone, 128+n after signal n; None before.

        Negative: the guardian itself was killed by that signal.
        """
        code = self._guardian.poll()
        if code is not None:
            self._close()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """`poll`, waited for. Raises `subprocess.TimeoutExpired`."""
        code = self._guardian.wait(timeout)
        self._close()
        return code

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ask: SIGTERM for the command, and after its grace SIGKILL for all of its tree. Returns at once.

        `grace_seconds`: what is left of its time, if that is not the grace that it was started with. Asked again, a
        shorter one counts.
        """
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        self._order(STOP, time.monotonic() + grace)

    def kill(self) -> None:
        """SIGKILL for the whole tree. Returns at once."""
        self._order(KILL)

    def abandon(self) -> None:
        """SIGKILL for the guardian, which takes its child along: for one that is frozen and obeys no order.

        What the child has started may be left; it holds the slot until somebody kills it.
        """
        self._guardian.kill()

    def checkpoint(self) -> None:
        """Ask for a checkpoint: SIGUSR1 for the command, which is started with it ignored. Returns at once."""
        self._order(CHECKPOINT)

    def renew(self, began: float | None = None) -> None:
        """Say that the lease was renewed, after the write that renews it is committed. Returns at once.

        `began`: `time.monotonic()` before that write was sent, from when the lease counts; now if left out.
        """
        self._order(RENEW, began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self.wait(KILL_WAIT_SECONDS)

    def _order(self, order: bytes, at: float | None = None) -> None:
        # A guardian that has ended needs no order: its pipe is broken, or closed by `poll`.
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
    oom_score_adj: int | None = None,
) -> Guarded:
    """Start a command under a guardian.

    `env` replaces the environment, None inherits it. `output` is a file that stdout and stderr are appended to, or an
    open descriptor; None inherits both. `pass_fds` stay open in the guardian and in the command. The time of a `lease`
    begins now. `oom_score_adj` is the command's, -1000 to 1000: the higher, the sooner the kernel takes it when memory
    is short (`man 5 proc`); a refused one is no error. A command that cannot be started ends with code 127.
    """
    terms = Terms(grace_seconds, oom_score_adj, lease, time.monotonic())
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
