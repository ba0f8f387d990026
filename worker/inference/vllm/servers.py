"""Where the server comes from that answers a request: one that runs somewhere, whoever started it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

from worker.inference.engine import ModelFolder, Refusal
from worker.inference.vllm.peer import Peer, Standing
from worker.inference.vllm.remote import away

# A server that does not say in so long whether it is well is none.
LOOK_SECONDS = 30.0


class Servers(Protocol):
    """Servers for one event loop; only `standing` may be called from other threads."""

    def standing(self) -> Standing:
        """Raises Refusal 503 with the reason while none can answer."""
        ...

    def at(self, base: ModelFolder) -> AbstractAsyncContextManager[Peer]:
        """The server to ask for this base, which stays for as long as the block lasts. Raises Refusal."""
        ...

    async def watch(self) -> None:
        """Called every second: notice what has changed although nobody asks."""
        ...

    async def close(self) -> None:
        """Safe to repeat."""
        ...


class Elsewhere:
    """The one server at a URL: it serves what it serves."""

    def __init__(self, url: str, key: str | None = None, *, allow_old: bool = False) -> None:
        """`key` is the server's. `allow_old`: take a server that mixes up base and adapters, and keep them apart."""
        self._peer = Peer(url, key, allow_old=allow_old)

    def standing(self) -> Standing:
        return self._peer.standing()

    @asynccontextmanager
    async def at(self, base: ModelFolder) -> AsyncIterator[Peer]:  # noqa: ARG002  the server itself says which it has
        yield self._peer

    async def watch(self) -> None:
        """A server that went away is noticed: it cannot start again within a second."""
        try:
            with suppress(Refusal):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._peer.watch()
        except TimeoutError:
            self._peer.lose(away(f"it has not answered for {LOOK_SECONDS:g} seconds").error)

    async def close(self) -> None:
        await self._peer.close()
