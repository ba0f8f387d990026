"""One vLLM server as this engine knows it: what it serves, and the adapters that are proved there.

answer ──> look (base, adapters) ──> lodging (check, load, prove) ──> vLLM: token, token, … ──> the last one
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from app.contracts.generation import EngineError
from worker.inference.engine import ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.vllm.lodging import Lodging
from worker.inference.vllm.remote import Vllm, away
from worker.inference.vllm.served import Served, look
from worker.inference.vllm.speaking import NotLoaded, Speaker
from worker.inference.vllm.turns import Turns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What can be said of a server while nobody asks; `base` is a name for people."""

    device: str
    base: str | None
    adapters: list[str]


class Peer:
    """A server at one address, for one event loop. Proofs hold for as long as it is never away."""

    def __init__(self, url: str, key: str | None, *, allow_old: bool) -> None:
        """`key` is the server's. `allow_old`: take a server that mixes up base and adapters, and keep them apart."""
        self._allow_old = allow_old
        self._vllm = Vllm(url, key)
        self._speaker = Speaker(self._vllm, Turns() if allow_old else None)
        self._lodging = Lodging(self._vllm, self._speaker)
        self._state: Served | EngineError = away("it was not asked yet").error
        self._revision: str | None = None  # of the base's files, when this life of the server was first asked

    def standing(self) -> Standing:
        """As it was when it was last looked at. Raises Refusal 503 with the reason when it could not answer then."""
        if isinstance(self._state, EngineError):
            raise Refusal.of(self._state)
        return Standing(f"vLLM {self._state.version}", self._state.label, self._lodging.proved)

    async def check_health(self) -> None:
        """Raises Refusal 503 when it is away, or its engine is not well."""
        await self._vllm.check_health()

    async def watch(self) -> None:
        """Look whether it is well, and say what has changed. Raises Refusal 503."""
        before = self._state
        try:
            served = await self._look(checks_health=True)
        except Refusal as refusal:
            if before != refusal.error:
                log.warning("%s", refusal)
            raise
        if isinstance(before, EngineError):
            log.info("vLLM %s serves %s", served.version, served.label)

    async def answer(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Tokens, then one `Ended`. Raises Refusal.

        An adapter that vLLM has lost meanwhile is brought in and proved again, once.
        """
        for _ in range(2):
            is_begun = False
            try:
                async with aclosing(self._ask(request)) as events:
                    async for event in events:
                        is_begun = True
                        yield event
                return
            except NotLoaded:
                if request.adapter is not None:
                    self._lodging.forget(request.adapter)
                if is_begun:
                    break
        raise away("it lost the adapter while it answered")

    def lose(self, error: EngineError) -> None:
        """It is known to be away: whatever it has when it comes back, it was not proved."""
        self._state, self._revision = error, None
        self._lodging.forget_all()

    async def close(self) -> None:
        await self._vllm.close()

    async def _ask(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        had = request.adapter is not None and self._lodging.has(request.adapter)
        served = await self._look()
        served.check(request)
        self._check_revision(request.base)
        if request.adapter is not None:
            if had and request.adapter.name not in served.adapters:
                self._lodging.forget(request.adapter)
            await self._lodging.admit(request.adapter, request.base, served)
        async with aclosing(self._speaker.answer(request, served)) as events:
            async for event in events:
                yield event

    def _check_revision(self, base: ModelFolder) -> None:
        """Raises Refusal for a base whose files were replaced while the server had the old ones in memory.

        A base whose files could not be hashed has no revision, and is taken by its name.
        """
        self._revision = self._revision or base.revision
        if base.revision not in (None, self._revision):
            message = f"the files of {base.name!r} were replaced, and vLLM still has the old ones: start it again"
            raise Refusal(409, "base_not_served", message, "model")

    async def _look(self, *, checks_health: bool = False) -> Served:
        """Raises Refusal."""
        try:
            if checks_health:
                await self._vllm.check_health()
            known = self._state.version if isinstance(self._state, Served) else None
            served = await look(self._vllm, known, allow_old=self._allow_old)
        except Refusal as refusal:
            self.lose(refusal.error)
            raise
        self._state = served
        return served
