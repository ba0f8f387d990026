"""An engine process and an API around it, as they run for users, and their ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from app.contracts.generation import EngineHealth

START_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Raises AssertionError when the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        threading.Event().wait(0.02)


class EngineProcess:
    """`python -m worker.inference` on a free port of its own. It is ended with the context."""

    def __init__(self, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "worker.inference", "--port", str(self.port), "--device", "cpu"]
        self._process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})

    def __enter__(self) -> "EngineProcess":
        wait_until(lambda: self._process.poll() is not None or self.is_up(), START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(how)
        return self._process.wait(timeout=30)

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def health(self) -> EngineHealth:
        return EngineHealth.model_validate_json(httpx.get(f"{self.url}/health", trust_env=False).content)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL under which a real server answers for the app, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
