"""A vLLM server of this engine's own: started for the base that a request needs, and started again when it dies.

Another base replaces it when all is answered, as in the embedded engine.
"""

import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.crew import RESTARTS_A_MINUTE, restart_delay
from worker.inference.engine import ModelFolder, Refusal
from worker.inference.vllm.life import Life, Terms
from worker.inference.vllm.peer import Peer, Standing
from worker.inference.vllm.program import Program
from worker.inference.vllm.turns import Turns


class Managed:
    """One server at a time."""

    def __init__(self, program: Program, *, allow_old: bool = False, terms: Terms | None = None) -> None:
        """`allow_old`: take a program that mixes up base and adapters, and keep them apart."""
        self._program, self._allow_old, self._terms = program, allow_old, terms or Terms()
        self._turns = Turns()
        self._life: Life | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS_A_MINUTE)
        self._due = 0.0

    def standing(self) -> Standing:
        """A server that is not there yet can answer: the request starts it. One that died cannot, until it is back."""
        life = self._life
        if life is None or not life.has_come_up:
            return Standing("vLLM", None, [])
        if life.error is not None:
            raise Refusal.of(life.error)
        standing = life.peer.standing()
        return Standing(standing.device, life.base.name, standing.adapters)

    @asynccontextmanager
    async def at(self, base: ModelFolder) -> AsyncIterator[Peer]:
        async with self._turns.of(f"{base.folder.resolve()} {base.revision}"):
            yield await self._have(base).ready()

    async def watch(self) -> None:
        life = self._life
        if life is None or not life.has_come_up:
            return
        await life.watch()
        if life is self._life and self._is_over(life) and time.monotonic() >= self._due:
            self._begin(life.base)

    async def close(self) -> None:
        if self._life is not None:
            await self._life.end()

    def _have(self, base: ModelFolder) -> Life:
        """The base's server, which may still be starting. Raises Refusal 503 when it died a moment ago.

        Called by those whose turn it is: nobody is being answered for another base.
        """
        life = self._life
        if life is None or life.base.folder.resolve() != base.folder.resolve() or life.base.revision != base.revision:
            self._deaths.clear()
            return self._begin(base)
        if not self._is_over(life):
            return life
        left = self._due - time.monotonic()
        if left <= 0:
            return self._begin(base)
        assert life.error is not None
        raise Refusal.of(life.error.model_copy(update={"retry_after_seconds": math.ceil(left)}))

    def _begin(self, base: ModelFolder) -> Life:
        self._due = 0.0
        self._life = Life(self._program, base, self._terms, allow_old=self._allow_old, before=self._life)
        return self._life

    def _is_over(self, life: Life) -> bool:
        """The first time that it is found to be, the moment is set when the next one may start."""
        if not life.notice_exit():
            return False
        if self._due == 0.0:
            now = time.monotonic()
            self._deaths.append(now)
            self._due = now + restart_delay(list(self._deaths), now)
        return True
