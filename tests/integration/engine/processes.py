"""An engine process and an API around it, as they run for users, and their ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from app.contracts.generation import EngineHealth
from app.processes.engine_address import EngineAddress
from tests.support.forking import Forked, start_forker
from tests.support.waiting import wait_for

START_SECONDS = 150.0
MODULE = "worker.inference.__main__"
KEY = "the-key-of-an-engine-in-a-test"
# Of every request to it: its port is open to all users of this host.
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


class EngineProcess:
    """An engine on a free port of its own, with a key. It is ended with the context.

    It is forked; where its output goes to a file, it is started as `python -m worker.inference`, which takes seconds.
    Models and adapters may be anywhere below the folder of temporary files.
    """

    def __init__(
        self, *arguments: str, output: Path | None = None, port: int | None = None, **environment: str
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = EngineAddress(self.url, KEY)
        words = ["--port", str(self.port), "--device", "cpu", *arguments]
        self._home = tempfile.TemporaryDirectory()
        (Path(self._home.name) / "adapters").symlink_to(tempfile.gettempdir())
        env = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TUNESMITH_HOME": self._home.name,
            "TUNESMITH_MODELS_DIR": tempfile.gettempdir(),
            "TUNESMITH_ENGINE_KEY": KEY,
            **environment,
        }
        self._process = Forked(start_forker(), MODULE, words, env) if output is None else started(words, env, output)

    def __enter__(self) -> "EngineProcess":
        try:
            wait_for("the engine answers", self.is_up, START_SECONDS)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        self._home.cleanup()

    def end(self, how: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self._process.send_signal(how)
        return self._process.wait(timeout=30)

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", headers=HEADERS, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def health(self) -> EngineHealth:
        answer = httpx.get(f"{self.url}/health", headers=HEADERS, trust_env=False)
        return EngineHealth.model_validate_json(answer.content)


def started(words: list[str], environment: dict[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as log:
        command = [sys.executable, "-m", "worker.inference", *words]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
