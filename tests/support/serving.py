"""A real HTTP server for an app, in a thread of the test."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from tests.support.waiting import wait_for

# Of a client without a server: the API answers only for hosts that it knows.
LOCAL = "http://localhost"


@contextmanager
def serving(app: FastAPI, port: int = 0, **settings: Any) -> Iterator[str]:
    """Serve the app on a loopback port, by default a free one, and yield its URL. `settings` are uvicorn's."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **settings))
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for("the server is up", lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
