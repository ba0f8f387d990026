"""The vLLM server that this engine starts itself, for the base that a request names.

the process before has ended ──> starting ──> up ──> over: it exited, was silent, or another base is asked for
                                    └──────────────> over: it did not come up
"""

import asyncio
import logging
import math
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from app.contracts.generation import EngineError
from app.contracts.vllm import VllmCommand
from app.processes.environments import VLLM_KEY, Process, for_child
from app.processes.guardian import KILL_WAIT_SECONDS, Guarded, spawn
from app.processes.restart_delay import RESTARTS_A_MINUTE, restart_delay
from worker.inference.engine import ModelFolder, Refusal
from worker.inference.vllm.adapters import LOADING
from worker.inference.vllm.client import unavailable_now
from worker.inference.vllm.server import ServerStatus, VllmServer

LOOPBACK = "127.0.0.1"
# They stand before the operator's options, which therefore override them.
OPTIONS = (
    *("--enable-lora", "--max-loras", "8", "--max-cpu-loras", "64", "--max-lora-rank", "64"),
    "--enable-prompt-tokens-details",
)
# vLLM has so long to end its own processes before all of them are killed.
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VllmProgram:
    """The operator's command. The output is appended to the file `log`; with None it goes where the engine's goes."""

    command: VllmCommand
    log: Path | None = None

    def start(self, base: Path, port: int, key: str) -> Guarded:
        """Start it under a guardian: it ends with all processes below it when this process ends, however that ends."""
        environment = for_child(Process.VLLM) | {
            VLLM_KEY: key,
            LOADING: "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",  # the base is a local folder
        }
        # vLLM expects the model right behind `serve`; of an option that is given twice, the last one counts.
        place = ("--host", LOOPBACK, "--port", str(port))
        words = [*self.command.program, str(base), *OPTIONS, *self.command.options, *place]
        return spawn(words, env=environment, output=self.log, grace_seconds=GRACE_SECONDS)


@dataclass(frozen=True)
class VllmTimeouts:
    """In seconds. Within `start` a large model is read from a slow disk and its graphs are recorded.

    A server that was not healthy for `silence` counts as dead, because vLLM's engine does not recover.
    """

    start: float = 1800.0
    silence: float = 30.0


class VllmProcess:
    """One process of the program, for one base and one event loop. It starts at once. `error` says why it is over."""

    def __init__(
        self, program: VllmProgram, base: ModelFolder, timeouts: VllmTimeouts, before: "VllmProcess | None"
    ) -> None:
        """`before` is ended first, so that its memory is free."""
        self.base = base
        self.error: EngineError | None = None
        self.has_come_up = False
        self._program, self._timeouts, self._before = program, timeouts, before
        self._port, self._key = _free_port(), secrets.token_urlsafe(32)
        self.server = VllmServer(f"http://{LOOPBACK}:{self._port}", self._key)
        self._process: Guarded | None = None
        self._healthy_at = 0.0
        self._starting = asyncio.create_task(self._start())

    async def ready(self) -> VllmServer:
        """Wait until it is up. Raises Refusal 503 when it is over."""
        await asyncio.wait({self._starting})  # the start goes on when the request that waits for it is cancelled
        if self.error is not None:
            raise Refusal.of(self.error)
        return self.server

    async def watch(self) -> None:
        """Notice that it has exited or is silent, and set `error` then."""
        if not self.has_come_up or self.has_ended():
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeouts.silence):
                await self.server.look(checks_health=True)
            self._healthy_at = loop.time()
        except (Refusal, TimeoutError):
            if not self.has_ended() and loop.time() - self._healthy_at >= self._timeouts.silence:
                self._set_over(f"it was unhealthy for {self._timeouts.silence:g} seconds and is being restarted")
                assert self._process is not None
                self._process.kill()  # a process that hangs does not react to SIGTERM

    def has_ended(self) -> bool:
        """Whether it is over. An exit is seen here at once, before `watch` is called."""
        if self.error is None and self._process is not None and (code := self._process.poll()) is not None:
            self._set_over(f"its process ended with code {code}; its log tells more")
        return self.error is not None

    async def end(self) -> None:
        """Return when no process of it is left. May be called again, and cancelled."""
        self._starting.cancel()
        await asyncio.wait({self._starting})
        await self._end_before()
        self._set_over("it was ended", logging.INFO)
        if self._process is not None:
            await _wait_until_gone(self._process)
        await self.server.close()

    async def _start(self) -> None:
        try:
            await self._end_before()
            log.info("vLLM starts for %s", self.base.name)
            self._process = self._program.start(self.base.folder, self._port, self._key)
            async with asyncio.timeout(self._timeouts.start):
                while not self.has_ended():
                    with suppress(Refusal):  # it does not listen yet
                        await self.server.check_health()
                        break
                    await asyncio.sleep(POLL_SECONDS)
            if self.error is None:
                await self.server.look(checks_health=True)
                self.has_come_up, self._healthy_at = True, asyncio.get_running_loop().time()
        except Refusal as refusal:
            self._set_over(refusal)
        except TimeoutError:
            self._set_over(f"it did not come up within {self._timeouts.start:g} seconds; its log tells more")
        except OSError as error:
            self._set_over(f"it cannot be started ({error})")
        finally:
            if not self.has_come_up:
                self._set_over("its start was given up")

    async def _end_before(self) -> None:
        if self._before is not None:
            await self._before.end()
            self._before = None

    def _set_over(self, reason: str | Refusal, level: int = logging.WARNING) -> None:
        """Stop the process. Only the first reason counts."""
        if self.error is not None:
            return
        refusal = unavailable_now(reason) if isinstance(reason, str) else reason
        log.log(level, "%s (%s)", refusal, self.base.name)
        self.error = refusal.error
        self.server.mark_away(self.error)
        if self._process is not None:
            self._process.stop()


class BaseLock:
    """Lets in any number of requests for one base, and never requests for two bases. For one event loop.

    The base that was asked for first is next; when the base changes, all requests that wait for the next one go in.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._waiting: dict[object, Hashable] = {}  # each request's base, in their order
        self._base: Hashable | None = None
        self._inside = 0

    @asynccontextmanager
    async def hold(self, base: Hashable) -> AsyncIterator[None]:
        await self._acquire(base)
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._base = base if self._inside else None
                self._changed.notify_all()

    async def _acquire(self, base: Hashable) -> None:
        request = object()
        async with self._changed:
            self._waiting[request] = base
            try:
                await self._changed.wait_for(
                    lambda: next(iter(self._waiting)) is request and self._base in (None, base)
                )
                if self._base is None:
                    self._waiting = dict(sorted(self._waiting.items(), key=lambda item: item[1] != base))
                self._base, self._inside = base, self._inside + 1
            finally:
                del self._waiting[request]
                self._changed.notify_all()


class ManagedVllm:
    """One process at a time. Another base replaces it when all requests are answered, as in the embedded engine.

    A process that ends by itself is started again, later after each time.
    """

    def __init__(self, program: VllmProgram, timeouts: VllmTimeouts | None = None) -> None:
        self._program, self._timeouts = program, timeouts or VllmTimeouts()
        self._lock = BaseLock()
        self._process: VllmProcess | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)
        self._restart_at: float | None = None

    def status(self) -> ServerStatus:
        """Raises Refusal 503 for a server that ended, until it is back. One that was not started yet is no error."""
        process = self._process
        if process is None or not process.has_come_up:
            return ServerStatus("vLLM", None, [])
        if process.error is not None:
            raise Refusal.of(process.error)
        status = process.server.status()
        return ServerStatus(status.device, process.base.name, status.adapters)

    @asynccontextmanager
    async def acquire(self, base: ModelFolder) -> AsyncIterator[VllmServer]:
        async with self._lock.hold(_files(base)):
            yield await self._process_for(base).ready()

    async def watch(self) -> None:
        process = self._process
        if process is None or not process.has_come_up:
            return
        await process.watch()
        if process is self._process and process.has_ended() and self._seconds_to_restart() <= 0:
            self._start(process.base)

    async def close(self) -> None:
        if self._process is not None:
            await self._process.end()

    def _process_for(self, base: ModelFolder) -> VllmProcess:
        """Return the process for the base, which may still be starting. The lock is held for this base.

        Raises Refusal 503 when it ended a moment ago.
        """
        process = self._process
        if process is None or _files(process.base) != _files(base):
            self._deaths.clear()
            return self._start(base)
        if not process.has_ended():
            return process
        wait_seconds = self._seconds_to_restart()
        if wait_seconds <= 0:
            return self._start(base)
        assert process.error is not None
        raise Refusal.of(process.error.model_copy(update={"retry_after_seconds": math.ceil(wait_seconds)}))

    def _start(self, base: ModelFolder) -> VllmProcess:
        self._restart_at = None
        self._process = VllmProcess(self._program, base, self._timeouts, self._process)
        return self._process

    def _seconds_to_restart(self) -> float:
        """How long the process that has ended stays away. Its end counts from the first call."""
        now = time.monotonic()
        if self._restart_at is None:
            self._deaths.append(now)
            self._restart_at = now + restart_delay(list(self._deaths), now)
        return self._restart_at - now


def _files(base: ModelFolder) -> Hashable:
    """What tells two bases apart for a process: the folder, and the revision of the files that it has read."""
    return base.folder.resolve(), base.revision


def _free_port() -> int:
    """A port of loopback on which nothing listens now."""
    with closing(socket.create_server((LOOPBACK, 0))) as listener:
        port: int = listener.getsockname()[1]
    return port


async def _wait_until_gone(process: Guarded) -> None:
    """Wait for a process that was asked to stop, but not forever for one that the kernel cannot kill."""
    try:
        async with asyncio.timeout(GRACE_SECONDS + KILL_WAIT_SECONDS):
            while process.poll() is None:
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        log.error("a process of vLLM cannot be ended: guardian %d", process.pid)
