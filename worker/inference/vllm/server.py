"""One vLLM server as this engine knows it, whoever started it: what it serves, and which adapters are proved there.

answer ──> look (base, adapters) ──> adapters (check, load, prove) ──> responder: token, token, … ──> the last event
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.contracts.generation import EngineError
from worker.inference.engine import ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.server.limits import check_length, check_prompt
from worker.inference.vllm.adapters import AdapterNotLoaded, ProvedAdapters, load_base_config
from worker.inference.vllm.client import VllmClient, unavailable_now
from worker.inference.vllm.translate import VllmResponder

# Before this version, rows of the base may get the answer of an adapter that is computed beside them (vLLM's pull
# request 48421).
LEAST_VERSION = (0, 33)
# A server that has not said for so long whether it is healthy counts as away.
LOOK_SECONDS = 30.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerStatus:
    """What a server has at present. `base` is a name for people, and None where no base is loaded."""

    device: str
    base: str | None
    adapters: list[str]


@dataclass(frozen=True)
class ServedBase:
    """The base of a server. `name` is that for requests, and `adapters` are the names of its loaded adapters."""

    version: str
    name: str
    root: str
    context: int | None
    adapters: frozenset[str]

    @property
    def label(self) -> str:
        """The base's name for people: the last part of a folder, or the hub's name."""
        return Path(self.root).name if Path(self.root).is_absolute() else self.root

    def check(self, request: TokenRequest) -> None:
        """Raises Refusal for a request to another base, and for a prompt that this one cannot read."""
        if not self._is(request.base):
            message = (
                f"the engine serves only the base {self.label!r} through vLLM; the request needs {request.base.name!r}"
            )
            raise Refusal(409, "base_not_served", message, "model")
        check_prompt(load_base_config(request.base), request.prompt_ids)
        check_length(self.context, len(request.prompt_ids), request.sampling.max_new_tokens)

    def _is(self, base: ModelFolder) -> bool:
        """A hub name differs from a local folder of that name: the folder of a hub model has another name."""
        if Path(self.root).is_absolute():
            return Path(self.root).resolve() == base.folder.resolve()
        return self.root == base.name != base.folder.name


class VllmServer:
    """A server at one address, for one event loop. An adapter stays proved for as long as the server is not away.

    It is the `VllmProvider` of a server that somebody else has started: every base is asked of it.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        """`key` is the server's API key."""
        self._client = VllmClient(url, key)
        self._adapters = ProvedAdapters(self._client)
        self._state: ServedBase | EngineError = unavailable_now("it was not asked yet").error
        self._revision: str | None = None  # of the base's files, at the first request since the server was away

    def status(self) -> ServerStatus:
        """Return what was last seen. Raises Refusal 503 with the reason if the server could not answer then."""
        if isinstance(self._state, EngineError):
            raise Refusal.of(self._state)
        return ServerStatus(f"vLLM {self._state.version}", self._state.label, self._adapters.names())

    @asynccontextmanager
    async def acquire(self, base: ModelFolder) -> AsyncIterator[Self]:  # noqa: ARG002  `answer` checks the base
        yield self

    async def watch(self) -> None:
        """A restart of the server is always noticed, because it takes longer than the second between two calls."""
        try:
            with suppress(Refusal):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.look(checks_health=True)
        except TimeoutError:
            self.mark_away(unavailable_now(f"it has not answered for {LOOK_SECONDS:g} seconds").error)

    async def look(self, *, checks_health: bool = False) -> ServedBase:
        """Return what the server serves now. Raises Refusal 503 when it is away, too old, or serves nothing."""
        version = self._state.version if isinstance(self._state, ServedBase) else None
        try:
            if checks_health:
                await self._client.check_health()
            served = await _served_base(self._client, version)
        except Refusal as refusal:
            if self._state != refusal.error:
                log.warning("%s", refusal)
            self.mark_away(refusal.error)
            raise
        if isinstance(self._state, EngineError):
            log.info("vLLM %s serves %s", served.version, served.label)
        self._state = served
        return served

    async def check_health(self) -> None:
        """Raises Refusal 503 when the server is away or not healthy."""
        await self._client.check_health()

    async def answer(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield tokens, then one `Ended` or `EngineError`. Raises Refusal before the first token.

        An adapter that vLLM has lost meanwhile is loaded and proved again, once.
        """
        for _ in range(2):
            is_begun = False
            try:
                async with aclosing(self._answer(request)) as events:
                    async for event in events:
                        is_begun = True
                        yield event
                return
            except AdapterNotLoaded:
                if request.adapter is not None:
                    self._adapters.forget(request.adapter)
                if is_begun:
                    break
        raise unavailable_now("it lost the adapter while it answered")

    def mark_away(self, error: EngineError) -> None:
        """Remember why the server cannot answer, and that nothing is proved when it comes back."""
        self._state, self._revision = error, None
        self._adapters.forget_all()

    async def close(self) -> None:
        await self._client.close()

    async def _answer(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        was_proved = request.adapter in self._adapters
        served = await self.look()
        served.check(request)
        self._check_revision(request.base)
        responder = VllmResponder(self._client, served.name)
        if request.adapter is not None:
            if was_proved and request.adapter.name not in served.adapters:
                self._adapters.forget(request.adapter)
            await self._adapters.admit(request.adapter, request.base, responder)
        async with aclosing(responder.generate(request)) as events:
            async for event in events:
                yield event

    def _check_revision(self, base: ModelFolder) -> None:
        """Raises Refusal for a base whose files were replaced while the server had the old ones in memory.

        A base whose files could not be hashed has no revision, and is not checked.
        """
        self._revision = self._revision or base.revision
        if base.revision not in (None, self._revision):
            message = f"the files of {base.name!r} were replaced, and vLLM still has the old ones: start it again"
            raise Refusal(409, "base_not_served", message, "model")


async def _served_base(client: VllmClient, version: str | None) -> ServedBase:
    """`version` is None if it is not known yet; it stays the same while the server is not away."""
    version = version or await client.version()
    models = await client.models()
    if is_old(version):
        least = ".".join(map(str, LEAST_VERSION))
        reason = f"it is version {version}, at least {least} is needed: before, adapters leaked into the base's answers"
        raise unavailable_now(reason)
    base = next((model for model in models if model.parent is None), None)
    if base is None:
        raise unavailable_now("it serves no base model")
    adapters = frozenset(model.id for model in models if model.parent is not None)
    return ServedBase(version, base.id, base.root or base.id, base.max_model_len, adapters)


def is_old(version: str) -> bool:
    """A version that cannot be read counts as old."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is None or tuple(map(int, found.groups())) < LEAST_VERSION
