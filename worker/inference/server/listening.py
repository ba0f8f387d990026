"""Where the engine listens and which clients it answers: those that can open its unix socket, or send its key."""

import hmac
import socket
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from app.known_hosts import Refused
from app.processes.engine_address import KEY_VARIABLE, LONGEST_SOCKET_PATH, WRONG_KEY, is_listened_on

NO_KEY = (
    f"every user of this host can reach an engine that listens on a port: it needs a key in {KEY_VARIABLE} (or, in "
    f"a file, {KEY_VARIABLE}_FILE), which API and workers send; `openssl rand -hex 32` creates one; without --host and "
    "--port it listens on a unix socket in its home, which only this user can open"
)


def listen(path: Path) -> socket.socket:
    """A listening unix socket that only this user can open. It replaces the socket of an engine that no longer runs.

    Raises ValueError if the path is too long, or another engine listens on it.
    """
    if len(bytes(path)) > LONGEST_SOCKET_PATH:
        raise ValueError(f"{path} should have at most {LONGEST_SOCKET_PATH} bytes to be a unix socket")
    if is_listened_on(path):
        raise ValueError(f"another engine listens on {path}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))  # the engine's umask keeps others out from the start
    path.chmod(0o600)
    return listener


class Keyed:
    """ASGI middleware that lets requests with the key pass. `respond` makes the application that answers all others."""

    def __init__(self, app: ASGIApp, key: str, respond: Callable[[Refused], ASGIApp]) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app if scope["type"] != "http" or self._is_named(scope) else self._respond(REFUSED)
        await app(scope, receive, send)

    def _is_named(self, scope: Scope) -> bool:
        """Compare in constant time, so that the duration reveals nothing of the key."""
        named = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(named) == 1 and hmac.compare_digest(named[0], self._expected)


REFUSED = Refused(401, WRONG_KEY, "authorization", f"authorization: expected Bearer and the key of {KEY_VARIABLE}")
