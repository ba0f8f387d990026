"""One process of the vLLM program, for one base, from its start to its end.

the one before has ended ──> starting ──> up ──> over: it exited, was silent, or has to make room
                                 └─────────────> over: it did not come up
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass

from app.contracts.generation import EngineError
from app.guardian import KILL_WAIT_SECONDS, Guarded
from worker.inference.engine import ModelFolder, Refusal
from worker.inference.vllm.peer import Peer
from worker.inference.vllm.program import GRACE_SECONDS, LOOPBACK, Program, free_port
from worker.inference.vllm.remote import away

POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """Seconds. A large model is read from a slow disk, and its graphs are recorded, within `start`.

    A server that was not well for `silence` is taken for dead: vLLM's engine does not recover.
    """

    start: float = 1800.0
    silence: float = 30.0


class Life:
    """For one event loop. It begins at once, and ends when it is told to or by itself; then `error` says why."""

    def __init__(
        self, program: Program, base: ModelFolder, terms: Terms, *, allow_old: bool, before: "Life | None"
    ) -> None:
        """`before` has to be over, its memory free, before this one starts."""
        self.base = base
        self.error: EngineError | None = None
        self.has_come_up = False
        self._program, self._terms, self._before = program, terms, before
        self._port, self._key = free_port(), secrets.token_urlsafe(32)
        self.peer = Peer(f"http://{LOOPBACK}:{self._port}", self._key, allow_old=allow_old)
        self._process: Guarded | None = None
        self._well_at = 0.0
        self._starting = asyncio.create_task(self._start())

    async def ready(self) -> Peer:
        """Wait until it is up. Raises Refusal 503 when it is over."""
        await asyncio.wait({self._starting})  # it goes on when whoever waits has left
        if self.error is not None:
            raise Refusal.of(self.error)
        return self.peer

    async def watch(self) -> None:
        """Notice that it has exited or is silent; `error` is set then."""
        if not self.has_come_up or self.error is not None or self.notice_exit():
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._terms.silence):
                await self.peer.watch()
            self._well_at = loop.time()
        except (Refusal, TimeoutError):
            if not self.notice_exit() and loop.time() - self._well_at >= self._terms.silence:
                self._end_by(away(f"it was not well for {self._terms.silence:g} seconds and is started again"))
                assert self._process is not None
                self._process.kill()  # it does not listen

    def notice_exit(self) -> bool:
        """Whether its process has exited, which is known at once and needs no watch."""
        if self.error is None and self._process is not None and (code := self._process.poll()) is not None:
            self._end_by(away(f"its process ended with code {code}; its log tells more"))
        return self.error is not None

    async def end(self) -> None:
        """Returns when nothing of it is left. May be repeated, and cancelled."""
        self._starting.cancel()
        await asyncio.wait({self._starting})
        if self._before is not None:
            await self._before.end()
            self._before = None
        if self.error is None:
            log.info("vLLM for %s was ended", self.base.name)
            self._set_over(away("it was ended").error)
        if self._process is not None:
            await _gone(self._process)
        await self.peer.close()

    async def _start(self) -> None:
        try:
            if self._before is not None:
                await self._before.end()
                self._before = None
            log.info("vLLM starts for %s", self.base.name)
            self._process = self._program.start(self.base.folder, self._port, self._key)
            async with asyncio.timeout(self._terms.start):
                while not self.notice_exit() and not await self._is_up():
                    await asyncio.sleep(POLL_SECONDS)
            if self.error is None:
                await self.peer.watch()
                self.has_come_up, self._well_at = True, asyncio.get_running_loop().time()
        except Refusal as refusal:
            self._end_by(refusal)
        except TimeoutError:
            self._end_by(away(f"it did not come up within {self._terms.start:g} seconds; its log tells more"))
        except OSError as error:
            self._end_by(away(f"it cannot be started ({error})"))
        finally:
            if not self.has_come_up:
                self._end_by(away("its start was given up"))

    async def _is_up(self) -> bool:
        try:
            await self.peer.check_health()
        except Refusal:
            return False
        return True

    def _end_by(self, reason: Refusal) -> None:
        """The first reason counts."""
        if self.error is None:
            log.warning("%s (%s)", reason, self.base.name)
            self._set_over(reason.error)

    def _set_over(self, error: EngineError) -> None:
        self.error = error
        self.peer.lose(error)
        if self._process is not None:
            self._process.stop()


async def _gone(process: Guarded) -> None:
    """Told to stop, it has its grace; nothing but a kernel that does not let go of it holds up the wait for longer."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GRACE_SECONDS + KILL_WAIT_SECONDS
    while process.poll() is None:
        if loop.time() > deadline:
            log.error("a process of vLLM cannot be ended: guardian %d", process.pid)
            return
        await asyncio.sleep(POLL_SECONDS)
