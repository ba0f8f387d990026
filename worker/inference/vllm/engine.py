"""The engine that answers through a vLLM server, which has GPUs of its own and may be on another host.

generate ──> in flight: a task ──> provider: the server that has the base ──> token, token, … ──> one last event

One thread with an event loop does all of it. Requests may come from any other event loop.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any, Protocol

from app.contracts.generation import EngineHealth
from worker.inference.engine import ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.models.serial import event_of
from worker.inference.server.waiting import PATIENCE_SECONDS, STOPPING, Ticket, answers
from worker.inference.vllm.client import unsupported
from worker.inference.vllm.server import ServerStatus, VllmServer

PLACES = 1024
WATCH_SECONDS = 1.0
log = logging.getLogger(__name__)


class VllmProvider(Protocol):
    """Gives the server that answers for a base. For one event loop; `status` may be called from any thread."""

    def status(self) -> ServerStatus:
        """Raises Refusal 503 with the reason while no server can answer."""
        ...

    def acquire(self, base: ModelFolder) -> AbstractAsyncContextManager[VllmServer]:
        """The server to ask for this base; it is not replaced within the block. Raises Refusal."""
        ...

    async def watch(self) -> None:
        """Called every second: notice a change without a request."""
        ...

    async def close(self) -> None:
        """May be called again."""
        ...


class VllmEngine:
    """Answers for the bases that its provider has a server for, and for adapters of them."""

    def __init__(
        self, provider: VllmProvider, *, places: int = PLACES, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """A request ends with an error when its answer stands still for `patience_seconds`."""
        self._provider, self._places, self._patience_seconds = provider, places, patience_seconds
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="vllm", daemon=True)
        self._thread.start()
        self._ready.wait()

    def health(self) -> EngineHealth:
        """Raises Refusal 503 with the reason when no server can answer."""
        status = self._provider.status()
        waiting, is_busy = self._in_flight.count()
        return EngineHealth(
            device=status.device,
            loaded_base=status.base,
            loaded_adapters=status.adapters,
            answers="in_batches" if status.base is not None else None,
            waiting=waiting,
            is_busy=is_busy,
        )

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return answers(request, self._in_flight, self._patience_seconds)

    def close(self) -> None:
        """May be called again."""
        self._in_flight.close()
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`. Returns false when it still runs."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def _work(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._in_flight = InFlightRequests(self._places, self._loop, self._answer)
        self._ready.set()
        watching = asyncio.create_task(self._watch())
        await self._stopping.wait()
        others = {watching, *asyncio.all_tasks()} - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._provider.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self._provider.watch()
            except Exception:  # the next time may succeed
                log.exception("the vLLM server could not be watched")
            await asyncio.sleep(WATCH_SECONDS)

    async def _answer(self, ticket: Ticket) -> None:
        """Put a last event in every case, unless the request is cancelled."""
        request = ticket.request
        try:
            _check_form(request)
            async with self._provider.acquire(request.base) as server, aclosing(server.answer(request)) as events:
                async for event in events:
                    self._in_flight.mark_started(ticket)
                    ticket.put(event)
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            ticket.put(event_of(error))


class InFlightRequests:
    """Requests that are being answered, each by a task of the engine's event loop. May be used from any thread."""

    def __init__(
        self, places: int, loop: asyncio.AbstractEventLoop, answer: Callable[[Ticket], Coroutine[Any, Any, None]]
    ) -> None:
        """`answer` puts a last event into its ticket, unless it is cancelled."""
        self._places, self._loop, self._answer = places, loop, answer
        self._tasks: dict[Ticket, Future[None]] = {}
        self._started: set[Ticket] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def enter(self, ticket: Ticket) -> None:
        """Raises Refusal 503 when the engine stops, and 429 when too many requests are in flight."""
        with self._lock:
            if self._is_closed:
                raise Refusal(*STOPPING)
            if len(self._tasks) >= self._places:
                message = f"{self._places} requests are being answered already; try again later"
                raise Refusal(429, "engine_busy", message)
            self._tasks[ticket] = asyncio.run_coroutine_threadsafe(self._answer(ticket), self._loop)

    def leave(self, ticket: Ticket) -> None:
        """The client has gone, or has the whole answer: end the task. May be called again."""
        with self._lock:
            task = self._tasks.pop(ticket, None)
            self._started.discard(ticket)
        if task is not None:
            task.cancel()

    def mark_started(self, ticket: Ticket) -> None:
        """The answer has begun."""
        with self._lock:
            if ticket in self._tasks:
                self._started.add(ticket)

    def count(self) -> tuple[int, bool]:
        """Return how many requests wait, and whether one is being answered."""
        with self._lock:
            return len(self._tasks) - len(self._started), bool(self._started)

    def close(self) -> None:
        """End every answer with an error, and refuse every new request. May be called again."""
        with self._lock:
            self._is_closed = True
            tickets = list(self._tasks)
        for ticket in tickets:
            ticket.put(ticket.stop(*STOPPING))
            self.leave(ticket)


def _check_form(request: TokenRequest) -> None:
    """Raises Refusal for an adapter that was proved on other values than those of the base's files."""
    variant, scaled_to = request.base.variant, request.base.scaled_to
    if scaled_to is not None:
        raise unsupported(
            f"a base reads what its files say there, the adapter needs RoPE scaled to {scaled_to}", "adapter"
        )
    if variant is not None:
        raise unsupported(f"a base has the values of its files there, the adapter needs {variant.name}", "adapter")
