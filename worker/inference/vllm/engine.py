"""The engine that answers through a vLLM server, which may be on other hosts and has GPUs of its own.

generate ──> look (base, adapters) ──> lodging (check, load, prove) ──> vLLM: token, token, … ──> one last event

A thread with an event loop of its own does it all; whoever asks may be in any loop.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import aclosing, suppress

from app.contracts.generation import EngineError, EngineHealth
from worker.inference.engine import Refusal, Token, TokenEvent, TokenRequest
from worker.inference.serial import event_of
from worker.inference.vllm.lodging import Lodging
from worker.inference.vllm.remote import Vllm, away
from worker.inference.vllm.served import Served, look
from worker.inference.vllm.speaking import NotLoaded, Speaker
from worker.inference.vllm.turns import Turns
from worker.inference.waiting import STOPPING, Ticket

PLACES = 1024
WATCH_SECONDS = 1.0
log = logging.getLogger(__name__)


class VllmEngine:
    """Answers for the base that the server serves and for adapters of it."""

    def __init__(self, url: str, key: str | None = None, *, allow_old: bool = False, places: int = PLACES) -> None:
        """`key` is the server's. `allow_old`: take a server that mixes up base and adapters, and keep them apart."""
        self._url, self._key, self._allow_old, self._places = url, key, allow_old, places
        self._state: Served | EngineError = away("it was not asked yet").error
        self._asked: dict[Ticket, Future[None]] = {}
        self._started: set[Ticket] = set()
        self._is_closed = False
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="vllm", daemon=True)
        self._thread.start()
        self._ready.wait()

    def health(self) -> EngineHealth:
        """Raises Refusal 503 with the reason when the server cannot answer."""
        state = self._state
        if isinstance(state, EngineError):
            raise Refusal(state.status, state.code, state.message)
        with self._lock:
            waiting, busy = len(self._asked) - len(self._started), bool(self._started)
        return EngineHealth(
            device=f"vLLM {state.version}",
            loaded_base=state.label,
            loaded_adapters=self._lodging.proved,
            answers="in_batches",
            waiting=waiting,
            is_busy=busy,
        )

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        ticket = Ticket(request)
        try:
            self._enter(ticket)
        except Refusal as refusal:
            yield refusal.error
            return
        try:
            while isinstance(event := await ticket.next(), Token):
                yield event
            yield event
        finally:
            self._leave(ticket)

    def close(self) -> None:
        """Safe to repeat."""
        with self._lock:
            self._is_closed = True
            asked = list(self._asked)
        for ticket in asked:
            ticket.put(ticket.stop(*STOPPING))
            self._leave(ticket)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`; false when it is still in the middle of something."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _enter(self, ticket: Ticket) -> None:
        """Raises Refusal 503 when the engine stops, 429 when as many as can be are being answered."""
        with self._lock:
            if self._is_closed:
                raise Refusal(*STOPPING)
            if len(self._asked) >= self._places:
                raise Refusal(
                    429, "engine_busy", f"{self._places} requests are being answered already; try again later"
                )
            self._asked[ticket] = asyncio.run_coroutine_threadsafe(self._serve(ticket), self._loop)

    def _begin(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in self._asked:
                self._started.add(ticket)

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            task = self._asked.pop(ticket, None)
            self._started.discard(ticket)
        if task is not None:
            task.cancel()

    async def _work(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._vllm = Vllm(self._url, self._key)
        self._speaker = Speaker(self._vllm, Turns() if self._allow_old else None)
        self._lodging = Lodging(self._vllm, self._speaker)
        self._ready.set()
        while not self._stopping.is_set():
            await self._watch()
            try:
                await asyncio.wait_for(self._stopping.wait(), WATCH_SECONDS)
            except TimeoutError:
                continue
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._vllm.close()

    async def _watch(self) -> None:
        """A server that went away is noticed although nobody asks: it cannot start again within `WATCH_SECONDS`."""
        before = self._state
        try:
            served = await self._look(checks_health=True)
        except Refusal as refusal:
            if before != refusal.error:
                log.warning("%s", refusal)
        else:
            if isinstance(before, EngineError):
                log.info("vLLM %s serves %s", served.version, served.label)

    async def _look(self, *, checks_health: bool = False) -> Served:
        """Raises Refusal."""
        try:
            if checks_health:
                await self._vllm.check_health()
            known = self._state.version if isinstance(self._state, Served) else None
            served = await look(self._vllm, known, allow_old=self._allow_old)
        except Refusal as refusal:
            self._state = refusal.error
            self._lodging.forget_all()
            raise
        self._state = served
        return served

    async def _serve(self, ticket: Ticket) -> None:
        """Whatever happens, there is a last event, unless whoever asked has left."""
        try:
            async with aclosing(self._answer(ticket.request)) as events:
                async for event in events:
                    self._begin(ticket)
                    ticket.put(event)
        except Refusal as refusal:
            ticket.put(refusal.error)
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            ticket.put(event_of(error))

    async def _answer(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """An adapter that vLLM has lost meanwhile is brought in and proved again, once."""
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

    async def _ask(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        had = request.adapter is not None and self._lodging.has(request.adapter)
        served = await self._look()
        served.check(request)
        if request.adapter is not None:
            if had and request.adapter.name not in served.adapters:
                self._lodging.forget(request.adapter)
            await self._lodging.admit(request.adapter, request.base, served)
        async with aclosing(self._speaker.answer(request, served)) as events:
            async for event in events:
                yield event
