"""The lock on a slot, that is, a GPU or the CPU: only the processes that hold it may train there.

    worker ──holds──> <host>-<name>.lock <──holds── guardian, trainer and their children, which inherit the descriptor

So it is free only when every process of an attempt is dead. The lock file names the process that took it last, and a
key that is stored in the job's row.

Open the lock file only while holding the mutex file (a process that already holds the lock may skip it). This keeps the
file's content consistent with the lock, and a status check can never block a worker. The folder must be on a local
disk.
"""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from app.processes.lock import CannotStart, hold_lock, keeps_locks, try_lock
from worker.supervising.lock_holders import ProcessId, holders, is_alive, kill_all, this_process

MUTEX_SECONDS = 2.0
KILL_SECONDS = 10.0
POLL_SECONDS = 0.2
# The record is written at once and with a fixed length, so that no crash leaves half of it.
RECORD_BYTES = 512


class SlotStuck(Exception):
    """Processes that survived SIGKILL hold the slot, so nothing can be trained on it. `pids`: their process ids."""

    def __init__(self, name: str, pids: list[int]) -> None:
        super().__init__(f"slot {name}: processes {pids} hold it and do not die; it cannot be used until they are gone")
        self.pids = pids


class _Record(BaseModel):
    """The content of a lock file. `pid` and `started` identify the last process that took the lock itself."""

    host: str
    uuid: str
    pid: int | None = None
    started: int | None = None  # clock ticks after boot

    @property
    def holder(self) -> ProcessId | None:
        return ProcessId(self.pid, self.started) if self.pid is not None and self.started is not None else None


class Slot:
    """One slot of this host. `key` identifies its lock file: after the file is lost, the new one has another key."""

    def __init__(self, path: Path, name: str, key: str) -> None:
        self.path, self.name, self.key = path, name, key
        self._lock: int | None = None

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """The slot of that name, not locked. Raises CannotStart if another process holds its mutex for too long."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_host()}-{quote(name, safe='')}.lock"
        with _mutex(path), _opened(path) as lock:
            return cls(path, name, _record(lock).uuid)

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock, for child processes to inherit. Raises ValueError if it is not held."""
        if self._lock is None:
            raise ValueError(f"slot {self.name} is not held")
        return self._lock

    def try_lock(self) -> bool:
        """Take the lock if it is free, and record this process as its holder. Returns whether this object holds it now.

        Raises CannotStart if the file system does not support locks.
        """
        if self._lock is not None:
            return True
        if not keeps_locks(self.path.parent):
            raise CannotStart(f"locks do not hold in {self.path.parent}: the folder should be on a local disk")
        with suppress(CannotStart), _mutex(self.path), _opened(self.path) as lock:
            if try_lock(lock):
                me = this_process()
                record = _record(lock)
                _write(lock, record.model_copy(update={"pid": me.pid, "started": me.started}))
                self.key, self._lock = record.uuid, os.dup(lock)
        return self.is_held

    def release(self) -> None:
        """Release the lock. Processes that inherited the descriptor still hold it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_free(folder: Path, key: str) -> bool | None:
    """Whether every process of the slot with this key is dead. Returns None if this host has no such slot.

    A worker claims jobs only while it holds the lock. So if a job's row was read first and this then returns True for
    its slot, the row's attempt is over, even if another worker takes the lock in the next moment.
    """
    for path in sorted(folder.glob("*.lock")):
        if (free := _is_free(path, key)) is not None:
            return free
    return None


def _is_free(path: Path, key: str) -> bool | None:
    try:
        record = _Record.model_validate_json(path.read_bytes().strip())
    except (OSError, ValidationError):
        return None
    if (record.host, record.uuid) != (_host(), key):
        return None
    try:
        with _mutex(path), _opened(path) as lock:
            if _record(lock).uuid != key:
                return None
            free = try_lock(lock)
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough if a process was forked meanwhile
            return free
    except CannotStart:  # another process holds the mutex, so it is alive
        return False


def remove_orphans(slot: Slot, patience_seconds: float) -> list[int]:
    """Kill the processes that a dead worker, or a dead guardian of this one, left in the slot. Returns their pids.

    If `slot` is not held, nothing is killed while the process that took its lock is alive. If it is held, no attempt
    may be running. Nothing is killed within `patience_seconds`, in which a guardian may let its child save a
    checkpoint, and the caller and its ancestors are never killed.

    Raises SlotStuck if a process survives SIGKILL, CannotStart if another process holds the mutex for too long.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        with _mutex(slot.path):  # no other process takes the lock meanwhile
            seen = _orphans(slot)
            if not seen:
                return []
            if time.monotonic() >= deadline:
                return _kill_orphans(slot, seen)
        time.sleep(POLL_SECONDS)


def _kill_orphans(slot: Slot, seen: set[ProcessId]) -> list[int]:
    """Kill processes that are seen twice: between fork and exec a process has its parent's descriptors for a moment."""
    killed: set[ProcessId] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while seen:
        if time.monotonic() >= deadline:
            raise SlotStuck(slot.name, sorted(process.pid for process in seen))
        time.sleep(POLL_SECONDS)
        left = _orphans(slot)
        kill_all(left & seen)
        killed |= left & seen
        seen = left
    return sorted(process.pid for process in killed)


def _orphans(slot: Slot) -> set[ProcessId]:
    """The processes that hold the lock although the worker that passed it to them is dead. Call it under the mutex."""
    with _opened(slot.path) as lock:
        if not slot.is_held:
            holder = _record(lock).holder
            if holder is None or is_alive(holder):
                return set()
        return holders(lock)


@contextmanager
def _mutex(path: Path) -> Iterator[None]:
    """Raises CannotStart if it does not become free in time: its holder is frozen, or is killing orphans."""
    refusal = f"another process is at {path.name}"
    with hold_lock(path.with_suffix(".mutex"), refusal, MUTEX_SECONDS):
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


def _record(lock: int) -> _Record:
    """The content of the file. If it is missing or unreadable, a new record with a new key is written."""
    with suppress(ValidationError):
        return _Record.model_validate_json(os.pread(lock, RECORD_BYTES, 0).strip())
    record = _Record(host=_host(), uuid=uuid.uuid4().hex)
    _write(lock, record)
    return record


def _write(lock: int, record: _Record) -> None:
    os.pwrite(lock, json.dumps(record.model_dump()).encode().ljust(RECORD_BYTES), 0)
    os.fsync(lock)


def _host() -> str:
    return quote(socket.gethostname(), safe="")
