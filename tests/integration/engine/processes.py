"""An engine process and an API around it, as they run for users, and their ends."""

import os
import signal
import socket
import subprocess
import sys

import httpx

from app.contracts.generation import EngineHealth
from tests.waiting import wait_for

START_SECONDS = 60.0


class EngineProcess:
    """`python -m worker.inference` on a free port of its own. It is ended with the context."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "worker.inference", "--port", str(self.port), "--device", "cpu", *arguments]
        self._process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})

    def __enter__(self) -> "EngineProcess":
        try:
            wait_for("the engine answers", self.is_up, START_SECONDS)
        except AssertionError:
            self.end(signal.SIGKILL)
            raise
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
