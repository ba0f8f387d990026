"""Finds and kills the processes of this host that hold the lock on a file, by reading /proc."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class ProcessId(NamedTuple):
    """A unique identity of a process: the kernel reuses a pid, but not with the same start time (clock ticks after
    boot)."""

    pid: int
    started: int


def this_process() -> ProcessId:
    found = _state(os.getpid())
    assert found is not None, "this process is alive"
    return found[0]


def is_alive(process: ProcessId) -> bool:
    """Whether it runs. A process that has ended but was not reaped yet counts as dead."""
    found = _state(process.pid)
    return found is not None and found[0] == process and found[1] not in "ZX"


def holders(descriptor: int) -> set[ProcessId]:
    """The processes that hold a flock on this file, except this process and its ancestors.

    Having the file open is not enough: the kernel lists an open file's locks in /proc/<pid>/fdinfo/<fd>
    (`man 5 proc_pid_fdinfo`). Processes of other users are not seen.
    """
    status = os.fstat(descriptor)
    excluded = _ancestors(os.getpid())
    found = set()
    for entry in os.listdir(PROC):
        if entry.isdigit() and int(entry) not in excluded and _holds(int(entry), (status.st_dev, status.st_ino)):
            state = _state(int(entry))
            if state is not None:
                found.add(state[0])
    return found


def kill_all(processes: Iterable[ProcessId]) -> None:
    """Send SIGKILL to each process that still has this identity."""
    for process in processes:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(process.pid)
            try:
                if is_alive(process):  # checked after the handle was taken, so the pid cannot be reused any more
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def _holds(pid: int, file: tuple[int, int]) -> bool:
    with suppress(OSError):
        for number in os.listdir(PROC / str(pid) / "fd"):
            with suppress(OSError):
                status = os.stat(PROC / str(pid) / "fd" / number)
                is_file = (status.st_dev, status.st_ino) == file
                if is_file and "FLOCK" in (PROC / str(pid) / "fdinfo" / number).read_text():
                    return True
    return False


def _ancestors(pid: int) -> set[int]:
    """The pids of the process and all its ancestors."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
    return found


def _state(pid: int) -> tuple[ProcessId, str] | None:
    fields = _stat(pid)
    return (ProcessId(pid, int(fields[19])), fields[0]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on (`man 5 proc_pid_stat`): state, parent, …; or []."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return []
