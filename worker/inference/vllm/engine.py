"""The engine that answers through a vLLM server, which may be on other hosts and has GPUs of its own.

generate ──> asked: a task of its own ──> servers: which one has the base ──> peer: token, token, … ──> one last event

A thread with an event loop of its own does it all; whoever asks may be in any loop.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from app.contracts.generation import EngineHealth
from worker.inference.engine import Refusal, TokenEvent, TokenRequest
from worker.inference.serial import event_of
from worker.inference.vllm.asked import Asked
from worker.inference.vllm.servers import Servers
from worker.inference.vllm.wording import unsupported
from worker.inference.waiting import PATIENCE_SECONDS, Ticket, answers

PLACES = 1024
WATCH_SECONDS = 1.0
log = logging.getLogger(__name__)


class VllmEngine:
    """Answers for the bases that its servers have and for adapters of them."""

    def __init__(self, servers: Servers, *, places: int = PLACES, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`patience_seconds`: how long an answer may stand still before its request ends with an error."""
        self._servers, self._places, self._patience_seconds = servers, places, patience_seconds
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="vllm", daemon=True)
        self._thread.start()
        self._ready.wait()

    def health(self) -> EngineHealth:
        """Raises Refusal 503 with the reason when no server can answer."""
        standing = self._servers.standing()
        waiting, is_busy = self._asked.count()
        return EngineHealth(
            device=standing.device,
            loaded_base=standing.base,
            loaded_adapters=standing.adapters,
            answers="in_batches" if standing.base is not None else None,
            waiting=waiting,
            is_busy=is_busy,
        )

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return answers(request, self._asked, self._patience_seconds)

    def close(self) -> None:
        """Safe to repeat."""
        self._asked.close()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`; false when it is still in the middle of something."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def _work(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._asked = Asked(self._places, self._loop, self._serve)
        self._ready.set()
        watching = asyncio.create_task(self._watch())
        await self._stopping.wait()
        others = {watching, *asyncio.all_tasks()} - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._servers.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self._servers.watch()
            except Exception:  # the next look may find all well
                log.exception("the vLLM servers could not be watched")
            await asyncio.sleep(WATCH_SECONDS)

    async def _serve(self, ticket: Ticket) -> None:
        """Whatever happens, there is a last event, unless whoever asked has left."""
        request = ticket.request
        try:
            _check_form(request)
            async with self._servers.at(request.base) as peer, aclosing(peer.answer(request)) as events:
                async for event in events:
                    self._asked.begin(ticket)
                    ticket.put(event)
        except Refusal as refusal:
            ticket.put(refusal.error)
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            ticket.put(event_of(error))


def _check_form(request: TokenRequest) -> None:
    variant, scaled_to = request.base.variant, request.base.scaled_to
    if scaled_to is not None:
        raise unsupported(
            f"a base reads what its files say there, the adapter needs RoPE scaled to {scaled_to}", "adapter"
        )
    if variant is not None:
        raise unsupported(f"a base has the values of its files there, the adapter needs {variant.name}", "adapter")
