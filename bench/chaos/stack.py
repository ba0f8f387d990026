"""The service under test: `tunesmith up` and a second training worker beside it, with short timers."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import httpx
import psycopg
import redis

from app.processes.guardian import Guarded, spawn
from bench.chaos import naive
from bench.chaos.processes import Process, of_run
from tests.support.tiny_model import build_tiny_model

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
MODEL = "tiny"
POSTGRES = "postgresql://postgres@127.0.0.1:5432"
REDIS = "redis://127.0.0.1:6379/9"
LEASE_SECONDS = 12.0
GRACE_SECONDS = 3.0
START_SECONDS = 120.0
STOP_SECONDS = 40.0
SECOND = "second"
DISK_BYTES = 1 << 30
TIMERS = {
    "TUNESMITH_LEASE_SECONDS": str(LEASE_SECONDS),
    "TUNESMITH_HEARTBEAT_SECONDS": "0.3",
    "TUNESMITH_RECONCILE_SECONDS": "0.5",
    "TUNESMITH_GRACE_SECONDS": str(GRACE_SECONDS),
    "TUNESMITH_SILENCE_SECONDS": "30",
}


@dataclass(frozen=True)
class Places:
    """What a backend is reached by. `sqlite` is the database file, where there is one."""

    environment: dict[str, str]
    broker_url: str
    broker_prefix: str
    postgres: str | None
    sqlite: Path | None


@dataclass
class Stack:
    """A running service."""

    folder: Path
    places: Places
    environment: dict[str, str]
    port: int
    up: subprocess.Popen[bytes] | None = None
    is_naive: bool = False
    second: Guarded | naive.Unguarded | None = None
    has_own_disk: bool = False
    stopping: Event = field(default_factory=Event)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self, *roles: str) -> list[Process]:
        return [one for one in of_run(str(self.folder)) if not roles or one.role in roles]

    def start_up(self) -> None:
        argv = [sys.executable, "-m", "app.cli", "up", "--home", str(self.home), "--port", str(self.port)]
        with (self.folder / "up.log").open("ab") as log:
            self.up = subprocess.Popen(argv, env=self.environment, cwd=ROOT, stdout=log, stderr=log)

    def start_second(self) -> None:
        """A worker for another slot, whose clock goes the other way when the clock is set wrong."""
        settings = {"TUNESMITH_SLOT": "cpu1", "CHAOS_CLOCK_SIGN": "-1", "TUNESMITH_HOME": str(self.home)}
        broker = {"TUNESMITH_BROKER_URL": self.places.broker_url}
        options = ["-P", "threads", "-c", "1", "-Q", "tunesmith.train", "-n", f"{SECOND}@%h", "--loglevel", "INFO"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        start = naive.spawn if self.is_naive else spawn
        self.second = start(
            [sys.executable, "-m", "celery", "-A", "worker.supervising.celery_app", "worker", *options, *alone],
            env={**self.environment, **settings, **broker},
            cwd=self.home,
            output=self.home / "logs" / f"{SECOND}.log",
            grace_seconds=9.0,
        )

    def tend(self) -> None:
        """Start again what is gone, as an init system does."""
        while not self.stopping.wait(0.3):
            if self.up is not None and self.up.poll() is not None:
                self.start_up()
            if self.second is not None and self.second.poll() is not None:
                self.start_second()

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            return bool(httpx.get(f"{self.url}/healthz", timeout=3).json()["status"] == "ok")
        return False

    def set_clock(self, shift_seconds: float) -> None:
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("d", shift_seconds))


@contextmanager
def running(
    backend: str, *, jitter_ms: int, is_naive: bool, has_second: bool, max_attempts: int, say: Callable[[str], None]
) -> Iterator[Stack]:
    """The stack of a backend ("embedded" or "services"), in a folder of its own that is gone afterwards."""
    with ExitStack() as cleanup:
        folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        has_own_disk = cleanup.enter_context(_own_disk(folder))
        (folder / "clock").write_bytes(struct.pack("d", 0.0))
        build_tiny_model(folder / "models" / MODEL)
        places = cleanup.enter_context(_services() if backend == "services" else _embedded(folder))
        marks = {
            "CHAOS_RUN": str(folder),
            "CHAOS_JITTER_MS": str(jitter_ms),
            "CHAOS_NAIVE": "1" if is_naive else "0",
            "TUNESMITH_PASS_ENVIRONMENT": "CHAOS_RUN,CHAOS_JITTER_MS,CHAOS_NAIVE,CHAOS_CLOCK_SIGN",
        }
        environment = {
            **os.environ,
            **TIMERS,
            **places.environment,
            **marks,
            "PYTHONPATH": f"{SITE}:{ROOT}",
            "TUNESMITH_MODELS_DIR": str(folder / "models"),
            "TUNESMITH_TRAINER_MODULE": "bench.chaos.trainer",
            "TUNESMITH_ENGINE_URL": "http://127.0.0.2:9",  # another host's: it is not started, and not asked
            "TUNESMITH_VERIFY": "off",  # what its trainer leaves is no real adapter
            "TUNESMITH_SLOT": "cpu0",
            "TUNESMITH_MAX_ATTEMPTS": str(max_attempts),
        }
        stack = Stack(folder, places, environment, _free_port(), is_naive=is_naive, has_own_disk=has_own_disk)
        cleanup.callback(_end, stack)
        stack.start_up()
        _wait(stack.is_ready, "the service is up", stack)
        if has_second:
            stack.start_second()
        Thread(target=stack.tend, daemon=True).start()
        say(f"the {backend} stack is up in {folder}")
        yield stack


def stop(stack: Stack) -> None:
    """End it as an operator does: SIGTERM. What is left when its time is over is an orphan."""
    stack.stopping.set()
    time.sleep(0.5)
    if stack.second is not None:
        stack.second.stop()
    if stack.up is not None:
        stack.up.send_signal(signal.SIGTERM)
    for process in (stack.up, stack.second):
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)


def _end(stack: Stack) -> None:
    """By force, whatever its state is."""
    stack.stopping.set()
    for _ in range(100):
        left = stack.processes()
        for process in left:
            process.kill()
        if not left:
            break
        time.sleep(0.1)
    if stack.up is not None:
        stack.up.wait(10)


def _wait(probe: Callable[[], bool], what: str, stack: Stack) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {START_SECONDS} s; {(stack.folder / 'up.log').read_text()[-2000:]}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _own_disk(folder: Path) -> Iterator[bool]:
    """A small file system for all state, so that a disk can be full for it alone. False where nobody may mount one."""
    image, home = folder / "disk.img", folder / "home"
    home.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    commands = (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(home)])
    is_mounted = all(subprocess.run(argv, check=False, capture_output=True).returncode == 0 for argv in commands)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(home)], check=False, capture_output=True)


@contextmanager
def _embedded(folder: Path) -> Iterator[Places]:
    home = folder / "home"
    yield Places({}, f"redis+socket://{home}/run/broker.sock", "tunesmith:", None, home / "tunesmith.db")


@contextmanager
def _services() -> Iterator[Places]:
    """A database and a key prefix of the run's own; both are gone afterwards."""
    name = f"chaos_{secrets.token_hex(4)}"
    broker = redis.Redis.from_url(REDIS)
    with psycopg.connect(f"{POSTGRES}/postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        url = f"postgresql+psycopg://postgres@127.0.0.1:5432/{name}"
        variables = {"DATABASE_URL": url, "BROKER_URL": REDIS, "BROKER_PREFIX": f"{name}:"}
        try:
            yield Places({f"TUNESMITH_{key}": value for key, value in variables.items()}, REDIS, f"{name}:", name, None)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for key in broker.scan_iter(f"{name}:*"):
                broker.delete(key)
            broker.close()
