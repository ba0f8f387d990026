"""A small process between a parent and one command, so that no way of dying leaves a process behind.

    parent ──stdin pipe──> guardian (subreaper, own session) ──> child (own session) ──> anything below it

The guardian ends the child when it is told to and when the pipe closes, which the kernel does even at `kill -9` of the
parent; the kernel kills the child when the guardian dies. Standard library only: this file is also the program that a
guardian runs.
"""

import ctypes
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

STOP = b"T"
KILL = b"K"
# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What Python itself ignores, and an exec would hand on.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# How often a tree that is being killed is looked at again for processes born meanwhile.
KILL_ROUND_SECONDS = 0.02
# A process in an uninterruptible wait outlives SIGKILL; its guardian stays with it, the parent goes on.
KILL_WAIT_SECONDS = 10.0


class Guarded:
    """The parent's handle on a guarded command. Dropping it stops the command; leaving its `with` block kills it."""

    def __init__(self, guardian: subprocess.Popen[bytes]) -> None:
        self._guardian = guardian
        self.pid = guardian.pid

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

    def stop(self) -> None:
        """Ask: SIGTERM for the command, and after its grace SIGKILL for all of its tree. Returns at once."""
        self._order(STOP)

    def kill(self) -> None:
        """SIGKILL for the whole tree. Returns at once."""
        self._order(KILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self.wait(KILL_WAIT_SECONDS)

    def _order(self, order: bytes) -> None:
        # A guardian that has ended needs no order: its pipe is broken, or closed by `poll`.
        with suppress(BrokenPipeError, ValueError):
            if self._guardian.stdin:
                self._guardian.stdin.write(order)

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
) -> Guarded:
    """Start a command under a guardian.

    `env` replaces the environment, None inherits it. `output` is a file that stdout and stderr are appended to, or an
    open descriptor; None inherits both. `pass_fds` stay open in the guardian and in the command. A command that cannot
    be started ends with code 127.
    """
    log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640) if isinstance(output, Path) else output
    try:
        guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(grace_seconds), *argv],
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
    return Guarded(guardian)


class _Tree:
    """Inside the guardian: the child and everything that descends from it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.exit_code: int | None = None
        self.exits = _wake_up_at_child_exit()
        self.child = _start(argv)

    def reap(self) -> bool:
        """Collect whoever has exited. False: nobody is left."""
        with suppress(BlockingIOError):
            os.read(self.exits, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.exit_code = code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """SIGTERM for the child alone: it knows best how to end what it has started."""
        _send(self.child, signal.SIGTERM)

    def kill(self) -> None:
        """Returns when the whole tree is gone; orphans become the guardian's own children, so none escapes."""
        while self.reap():
            for pid in _descendants(os.getpid()):
                _send(pid, signal.SIGKILL)
            select.select([self.exits], [], [], KILL_ROUND_SECONDS)


def guard(argv: Sequence[str], grace_seconds: float) -> int:
    """Run a command to its end or to the end of the parent, and leave nothing of it behind. Returns its exit code."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    tree = _Tree(argv)
    for number in IGNORED:  # only now: the child must not ignore them, not even before it is the command
        signal.signal(number, signal.SIG_IGN)
    _wait_for_a_reason_to_end(tree, grace_seconds)
    tree.kill()
    return tree.exit_code if tree.exit_code is not None else 128 + signal.SIGKILL


def _wait_for_a_reason_to_end(tree: _Tree, grace_seconds: float) -> None:
    """The child has exited, its grace is over, or the parent wants it dead."""
    control = sys.stdin.fileno()
    sources, deadline = [control, tree.exits], math.inf
    while tree.exit_code is None and (remaining := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(sources, [], [], None if remaining == math.inf else remaining)
        if control in ready:
            order = os.read(control, 1)
            if order == KILL:
                return
            if not order:
                sources.remove(control)
            if deadline == math.inf:
                deadline = time.monotonic() + grace_seconds
                tree.terminate()
        tree.reap()


def _wake_up_at_child_exit() -> int:
    """A descriptor that can be read after every SIGCHLD."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read_end


def _start(argv: Sequence[str]) -> int:
    guardian = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(argv, guardian)
        except OSError as error:
            os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    return pid


def _become(argv: Sequence[str], guardian: int) -> NoReturn:
    """In the forked child: turn into the command, bound to the guardian's life."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:  # it died before the line above could bind this process to it
        os._exit(128 + signal.SIGKILL)
    for number in (*IGNORED, *IGNORED_BY_PYTHON):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(argv[0], list(argv))


def _descendants(ancestor: int) -> list[int]:
    """All processes below one, parents before children (`man 5 proc_pid_stat`: field 4 is the parent)."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found = [ancestor]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    sys.exit(guard(sys.argv[2:], float(sys.argv[1])))
