"""Processes that handle untrusted input within strict limits of time and memory.

caller ──request──> child (`worker.confinement.limited_child`) ──answer──> caller

The kernel kills a child that uses too much CPU time; this side kills one that takes too long by the clock. A pool
reuses its processes, and replaces one that has ended.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any

from app.processes.environments import Process, for_child
from worker.confinement.limited_child import FRAME, encoded

# Wall-clock seconds for one call: more than any CPU limit, because other processes may use the cores.
LONGEST_SECONDS = 60.0
# Address space, in addition to what a process and its libraries use themselves.
MOST_BYTES = 2 * 2**30
# Seconds that a process may take to end after it closed its socket.
ENDING_SECONDS = 5.0
# The most objects that callers may store in one process of a pool; then a new process starts.
MOST_KEPT = 64


class CallFailed(Exception):
    """A process ended before it answered. `computed_too_long`: the kernel killed it because it used too much
    CPU time.
    """

    def __init__(self, reason: str, *, computed_too_long: bool = False) -> None:
        super().__init__(reason)
        self.computed_too_long = computed_too_long


class LimitedProcess:
    """A process that runs a module, and answers one call at a time until it is closed."""

    def __init__(
        self, module: str, kind: Process, *, longest_seconds: float = LONGEST_SECONDS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(longest_seconds)
        self._answers = self._socket.makefile("rb")
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", module, str(most_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**for_child(kind), "OMP_NUM_THREADS": "1"},
            )
        self._parent = os.getpid()
        self.pid = self._child.pid
        # The keys of what callers have stored there.
        self.kept: set[str] = set()

    @property
    def is_usable(self) -> bool:
        """Whether it can be called: it has not ended, and was not started before this process was forked."""
        return self._parent == os.getpid() and self._child.poll() is None

    def call(self, request: object, most_seconds: float) -> tuple[Any, float]:
        """The answer, and the CPU seconds that it used. Raises CallFailed; then the process has ended."""
        body = encoded(request)
        try:
            self._socket.sendall(FRAME.pack(most_seconds, len(body)) + body)
            frame = self._answers.read(FRAME.size)
            seconds, length = FRAME.unpack(frame) if len(frame) == FRAME.size else (0.0, 0)
            answer = self._answers.read(length)
        except TimeoutError:
            longest = self._socket.gettimeout()
            self.close()
            raise CallFailed(f"took longer than {longest:g} seconds") from None
        except OSError:
            answer, length = b"", 0
        if not answer or len(answer) < length:
            code = self._wait()
            raise CallFailed(f"ended with code {code}", computed_too_long=code == -signal.SIGPROF)
        return json.loads(answer.decode("utf-8", "surrogatepass")), seconds

    def _wait(self) -> int:
        """The exit code of a process that has closed its socket because it is ending."""
        try:
            return self._child.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.close()

    def close(self) -> None:
        if self._parent == os.getpid():
            self._child.kill()
            self._child.wait()
        self._answers.close()
        self._socket.close()


class ProcessPool:
    """A few processes of one kind for any number of threads. Each is started when it is first needed."""

    def __init__(self, start: Callable[[], LimitedProcess], size: int) -> None:
        self._start, self._size = start, size
        self._places: LifoQueue[LimitedProcess | None] = LifoQueue()
        for _ in range(size):
            self._places.put(None)

    @contextmanager
    def process(self) -> Iterator[LimitedProcess]:
        """Yield a process for the caller's exclusive use. Waiting for one takes limited time, because every
        call does.
        """
        process = self._places.get()
        try:
            if process is not None and (not process.is_usable or len(process.kept) >= MOST_KEPT):
                process.close()
                process = None
            process = process or self._start()
            yield process
        except BaseException:
            if process is not None and process.is_usable:  # its answer was not read
                process.close()
            raise
        finally:
            self._places.put(process)

    def close(self) -> None:
        """End its processes, once no call is under way. A later call starts one again."""
        for process in [self._places.get() for _ in range(self._size)]:
            if process is not None:
                process.close()
            self._places.put(None)
