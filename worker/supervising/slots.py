"""The lock on what a training runs on, a GPU or the CPU: whoever holds it may train there, and nobody else.

    worker ──holds──> <host>-<name>.lock <──holds── guardian, trainer and all below them, who inherit the descriptor

So it is free only when every process of an attempt is dead. Its file says who took it last, and has a key that a job's
row names. Nobody opens the file without the mutex beside it, but for whoever holds the lock already: so the file's text
and its lock always fit, and a look at a lock never keeps a worker out. The folder has to be on a local disk.
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
# A dead worker's guardian lets its child save a checkpoint; only after that is what is left of them an orphan.
PATIENCE_SECONDS = 20.0
KILL_SECONDS = 10.0
POLL_SECONDS = 0.2
# One write of a fixed length: no death leaves half of it.
RECORD_BYTES = 512


class SlotStuck(Exception):
    """Processes that outlive SIGKILL hold the slot: nothing may be trained on it. `pids`: theirs."""

    def __init__(self, name: str, pids: list[int]) -> None:
        super().__init__(f"slot {name}: processes {pids} hold it and do not die; it cannot be used until they are gone")
        self.pids = pids


class _Record(BaseModel):
    """The text of a lock file. `pid` and `started` are those of the last process that took the lock itself."""

    host: str
    uuid: str
    pid: int | None = None
    started: int | None = None  # clock ticks after boot

    @property
    def holder(self) -> ProcessId | None:
        return ProcessId(self.pid, self.started) if self.pid is not None and self.started is not None else None


class Slot:
    """One slot of this host. `key` names its lock file's life: another disk or a wiped one has another key."""

    def __init__(self, path: Path, name: str, key: str) -> None:
        self.path, self.name, self.key = path, name, key
        self._lock: int | None = None

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """The slot of that name, without its lock. Raises `CannotStart` when another process is at it for too long."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_host()}-{quote(name, safe='')}.lock"
        with _mutex(path), _opened(path) as lock:
            return cls(path, name, _record(lock).uuid)

    @property
    def is_held(self) -> bool:
        return self._lock is not None

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock, to be inherited by all that trains. Raises ValueError when not held."""
        if self._lock is None:
            raise ValueError(f"slot {self.name} is not held")
        return self._lock

    def try_lock(self) -> bool:
        """Take the lock if nobody has it, and write down who does. True also when this object holds it already.

        Raises `CannotStart` where the disk keeps no locks.
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
        """Let go. Whoever inherited the descriptor goes on holding the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_free(folder: Path, key: str) -> bool | None:
    """Whether every process of the slot with this key is dead; None: this host has no such slot, it cannot say.

    A worker claims only while it holds the lock. So whoever reads a row first and gets True for its key after that
    knows that the row's attempt is over, even if a worker takes the lock in the next moment.
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
            fcntl.flock(lock, fcntl.LOCK_UN)  # for a process too that was forked meanwhile
            return free
    except CannotStart:  # somebody is at it, so somebody is alive
        return False


def remove_orphans(slot: Slot, patience_seconds: float = PATIENCE_SECONDS) -> list[int]:
    """Kill what a dead worker, or a dead guardian of this one, left behind in the slot; the pids that were killed.

    Of a slot that is not held, nothing is killed while the process that took its lock lives; of one that is held, no
    attempt may be running. Nor is anything killed before the patience is over: a guardian may let its child save. The
    caller and its ancestors are never killed. Raises `SlotStuck` when a process outlives its SIGKILL, `CannotStart`
    when another process is at the slot for too long.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        with _mutex(slot.path):  # nobody takes the lock meanwhile
            seen = _orphans(slot)
            if not seen:
                return []
            if time.monotonic() >= deadline:
                return _kill_orphans(slot, seen)
        time.sleep(POLL_SECONDS)


def _kill_orphans(slot: Slot, seen: set[ProcessId]) -> list[int]:
    """Kill who is seen twice: a process between fork and exec has its parent's descriptors for a moment only."""
    doomed: set[ProcessId] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while seen:
        if time.monotonic() >= deadline:
            raise SlotStuck(slot.name, sorted(process.pid for process in seen))
        time.sleep(POLL_SECONDS)
        left = _orphans(slot)
        kill_all(left & seen)
        doomed |= left & seen
        seen = left
    return sorted(process.pid for process in doomed)


def _orphans(slot: Slot) -> set[ProcessId]:
    """Under the mutex: who holds the lock though no living worker has given it to them."""
    with _opened(slot.path) as lock:
        if not slot.is_held:
            holder = _record(lock).holder
            if holder is None or is_alive(holder):
                return set()
        return holders(lock)


@contextmanager
def _mutex(path: Path) -> Iterator[None]:
    """Raises `CannotStart` when it is not free in time: its holder is frozen, or is killing orphans."""
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
    """The text of the file. One that is not there, or that no reader understands, is written with a new key."""
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
