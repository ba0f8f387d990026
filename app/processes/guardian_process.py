"""The guardian's program, between a parent and one command: it ends the command in time, with all its descendants.

    parent ──orders──> guardian (subreaper, own session) ──> child (own session) ──> anything below it
                           └────────────renewals───────────────^

It uses only the standard library, because it runs without site-packages. `app.processes.guardian` starts it.
"""

import ctypes
import json
import math
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

STOP = b"T"
KILL = b"K"
CHECKPOINT = b"C"
RENEW = b"R"
# An order and a `time.monotonic()`: when a lease was renewed, or when a stopping command must have ended. It is shorter
# than PIPE_BUF, so it is written atomically.
ORDER = struct.Struct("=cd")
# Variables of a child with a lease: a descriptor with one byte for every renewal, and its `alarm_after`.
LEASE_FD = "GUARDIAN_LEASE_FD"
LEASE_SECONDS = "GUARDIAN_LEASE_SECONDS"
# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Only this user can read what the command and its descendants write: files are 0600, folders 0700.
UMASK = 0o077
# Signals that Python ignores. An exec would pass that on to the command.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# How often a tree that is being killed is searched again for new processes.
KILL_ROUND_SECONDS = 0.02


@dataclass(frozen=True)
class Lease:
    """How many seconds a command may run after the last renewal. Raises ValueError unless they ascend in this order.

    `term_after`: the child gets SIGTERM. `kill_after`: its whole tree gets SIGKILL. `alarm_after`: the timer that the
    child keeps itself (`LEASE_FD`) expires, in case parent and guardian are both frozen.
    """

    term_after: float
    kill_after: float
    alarm_after: float

    def __post_init__(self) -> None:
        if not 0 < self.term_after < self.kill_after < self.alarm_after:
            raise ValueError(f"a lease needs 0 < term_after < kill_after < alarm_after, got {self}")


@dataclass(frozen=True)
class Terms:
    """The guardian's parameters, passed as one argument of its command line.

    `began`: when the lease began; None: it begins with the first renewal.
    """

    grace_seconds: float
    oom_score_adj: int | None
    lease: Lease | None
    began: float | None

    def dump(self) -> str:
        lease = [self.lease.term_after, self.lease.kill_after, self.lease.alarm_after] if self.lease else None
        return json.dumps([self.grace_seconds, self.oom_score_adj, lease, self.began])

    @classmethod
    def load(cls, text: str) -> "Terms":
        grace_seconds, oom_score_adj, lease, began = json.loads(text)
        return cls(grace_seconds, oom_score_adj, Lease(*lease) if lease else None, began)


class _Tree:
    """Inside the guardian: the child and all its descendants."""

    def __init__(self, argv: Sequence[str], terms: Terms) -> None:
        self.exit_code: int | None = None
        self.exits = _wake_up_at_child_exit()
        renewals, self.renewals = os.pipe()
        os.set_blocking(self.renewals, False)
        self.child = _start(argv, terms, renewals)
        os.close(renewals)

    def reap(self) -> bool:
        """Reap all processes that have exited. Returns False if none is left."""
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
        """Send SIGTERM to the child alone, because it knows how to end what it has started."""
        _send(self.child, signal.SIGTERM)

    def checkpoint(self) -> None:
        _send(self.child, signal.SIGUSR1)

    def renew(self) -> None:
        """Send a byte to the child. The pipe may be full or broken, if the child does not read it."""
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self.renewals, RENEW)

    def kill(self) -> None:
        """Kill the whole tree and return when it is gone. Orphans become the guardian's children, so none escapes."""
        while self.reap():
            for pid in _descendants(os.getpid()):
                _send(pid, signal.SIGKILL)
            select.select([self.exits], [], [], KILL_ROUND_SECONDS)


class _Watch:
    """Inside the guardian: obeys the parent and enforces the child's deadlines, all in `time.monotonic()`."""

    def __init__(self, tree: _Tree, terms: Terms) -> None:
        self.tree, self.grace_seconds, self.lease = tree, terms.grace_seconds, terms.lease
        self.stop_by = self.term_at = self.kill_at = math.inf
        self.renewed = -math.inf
        if terms.began is not None:
            self._count_from(terms.began)

    def until_a_reason_to_end(self) -> None:
        """Return when the child has exited, its grace or its lease is over, or the parent orders to kill it."""
        control = sys.stdin.fileno()
        sources = [control, self.tree.exits]
        while self.tree.exit_code is None and time.monotonic() < min(self.stop_by, self.kill_at):
            ready, _, _ = select.select(sources, [], [], self._seconds_left())
            if control in ready:  # reads all orders, so that no deadline is tested with an old renewal
                orders = os.read(control, ORDER.size * 1000)
                for order, at in ORDER.iter_unpack(orders):
                    self._carry_out(order, at)
                if not orders:
                    sources.remove(control)
                    self._stop(time.monotonic() + self.grace_seconds)
            if time.monotonic() >= self.term_at:
                self._stop(self.kill_at)
            self.tree.reap()

    def _seconds_left(self) -> float | None:
        is_stopping = self.stop_by < math.inf
        left = min(self.stop_by, self.kill_at if is_stopping else self.term_at) - time.monotonic()
        return None if left == math.inf else max(left, 0)

    def _carry_out(self, order: bytes, at: float) -> None:
        if order == KILL:
            self.stop_by = -math.inf
        elif order == STOP:
            self._stop(at)
        elif order == CHECKPOINT:
            self.tree.checkpoint()
        elif order == RENEW and self.lease:
            self._count_from(at)
            # The child counts from when it reads the byte. A late byte would give it too much time.
            if time.monotonic() - at <= self.lease.alarm_after - self.lease.kill_after:
                self.tree.renew()

    def _count_from(self, renewed: float) -> None:
        if self.lease and renewed > self.renewed:
            self.renewed = renewed
            self.term_at, self.kill_at = renewed + self.lease.term_after, renewed + self.lease.kill_after

    def _stop(self, by: float) -> None:
        """Send SIGTERM to the child once. Of several reasons to stop, the earliest deadline counts."""
        if self.stop_by == math.inf:
            self.tree.terminate()
        self.stop_by = min(self.stop_by, by)


def guard(argv: Sequence[str], terms: Terms) -> int:
    """Run a command until it ends, its time is over or its parent ends. Returns its exit code, with its tree gone."""
    os.umask(UMASK)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # also in the child until it sets a handler, as exec keeps that
    tree = _Tree(argv, terms)
    for number in IGNORED:  # only after the fork, because the child must not ignore them
        signal.signal(number, signal.SIG_IGN)
    _Watch(tree, terms).until_a_reason_to_end()
    tree.kill()
    return tree.exit_code if tree.exit_code is not None else 128 + signal.SIGKILL


def _wake_up_at_child_exit() -> int:
    """Return a descriptor that becomes readable after every SIGCHLD."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read_end


def _start(argv: Sequence[str], terms: Terms, renewals: int) -> int:
    guardian = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _bind(guardian)
            _take_terms(terms, renewals)
            _become(argv)
        except OSError as error:
            os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    return pid


def _bind(guardian: int) -> None:
    """In the forked child: start a session of its own, and let the kernel kill it when the guardian dies."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:  # it died before the line above took effect
        os._exit(128 + signal.SIGKILL)


def _take_terms(terms: Terms, renewals: int) -> None:
    """In the forked child: put the lease into its environment, without any lease that its parent may have."""
    os.environ.pop(LEASE_FD, None)
    os.environ.pop(LEASE_SECONDS, None)
    if terms.lease:
        os.set_inheritable(renewals, True)
        os.environ[LEASE_FD], os.environ[LEASE_SECONDS] = str(renewals), str(terms.lease.alarm_after)
    if terms.oom_score_adj is not None:
        with suppress(OSError):  # hosts may refuse some values
            Path("/proc/self/oom_score_adj").write_text(str(terms.oom_score_adj))


def _become(argv: Sequence[str]) -> NoReturn:
    """In the forked child: turn into the command."""
    for number in (*IGNORED, *IGNORED_BY_PYTHON):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(argv[0], list(argv))


def _descendants(ancestor: int) -> list[int]:
    """Return all descendants of a process, parents before children (`man 5 proc_pid_stat`: field 4 is the parent)."""
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
    sys.exit(guard(sys.argv[2:], Terms.load(sys.argv[1])))
