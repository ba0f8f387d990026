"""Processes that are forked from one that has imported what they import, which takes it seconds of computing.

    starter ──connection──> forker ──fork──> keeper of the connection ──fork──> process

A process ends with its connection, hence with whoever has started it. What is read from the environment at an import
is that of the forker, where Triton interprets its kernels; all else is as in a process of its own.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

# The first one sets how OpenMP waits, before torch is imported.
MODULES = ("worker.inference.__main__", "tests.integration.engine.vllm_server")


class Forked:
    """A process that calls `main` of a module with the words as its command line. Its output may go to a file."""

    def __init__(
        self,
        forker: Path,
        module: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        output: Path | None = None,
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(forker))
        self._lines = self._connection.makefile("r")
        request = [module, list(words), dict(environment), output and str(output)]
        self._connection.sendall(f"{json.dumps(request)}\n".encode())
        self.pid = int(self._lines.readline())
        self._code: int | None = None

    def fileno(self) -> int:
        """It can be read from as soon as the process has ended."""
        return self._connection.fileno()

    def send_signal(self, number: signal.Signals) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises TimeoutError."""
        if self._code is None:
            self._connection.settimeout(timeout)
            self._code = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self._code


@cache
def start_forker() -> Path:
    """The socket of a forker that ends with this process. Who connects waits until it has imported the modules."""
    path = Path(tempfile.mkdtemp(prefix="forker-", dir="/tmp")) / "forker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        command = [sys.executable, "-m", __name__, str(listener.fileno())]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1"}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=environment)
    atexit.register(process.communicate)  # closes its input, as the kernel does where this process is killed
    return path


def main() -> None:
    """In the forker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the starter, and this with it
    for module in MODULES:
        import_module(module)
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        path = Path(listener.getsockname())
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                sys.exit(keep(connection))
            connection.close()
            _reap()
    _reap()
    path.unlink()
    path.parent.rmdir()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def keep(connection: socket.socket) -> int:
    """In the keeper, until the process has ended; and in the process, of which it returns the exit code."""
    with connection.makefile("r") as lines:
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        return run(*request)
    connection.sendall(f"{pid}\n".encode())
    if connection.fileno() in select.select([connection.fileno(), os.pidfd_open(pid)], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(f"{code}\n".encode())
    return 0


def run(module: str, words: list[str], environment: dict[str, str], output: str | None) -> int:
    """In the forked process: what `python -m module` does."""
    os.umask(0)  # what a process writes for this user alone, it has to protect by itself
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *words]
    return int(import_module(module).main() or 0)


if __name__ == "__main__":
    main()
