"""The requests that are on their way through vLLM: each is a task of the engine's event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from worker.inference.engine import Refusal
from worker.inference.waiting import STOPPING, Ticket


class Asked:
    """Lets in as many as there are places. May be used from any thread."""

    def __init__(
        self, places: int, loop: asyncio.AbstractEventLoop, serve: Callable[[Ticket], Coroutine[Any, Any, None]]
    ) -> None:
        """`serve` sees to it that its ticket has a last event, unless it is cancelled."""
        self._places, self._loop, self._serve = places, loop, serve
        self._tasks: dict[Ticket, Future[None]] = {}
        self._started: set[Ticket] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    def enter(self, ticket: Ticket) -> None:
        """Raises Refusal 503 when the engine stops, 429 when as many as can be are being answered."""
        with self._lock:
            if self._is_closed:
                raise Refusal(*STOPPING)
            if len(self._tasks) >= self._places:
                message = f"{self._places} requests are being answered already; try again later"
                raise Refusal(429, "engine_busy", message)
            self._tasks[ticket] = asyncio.run_coroutine_threadsafe(self._serve(ticket), self._loop)

    def leave(self, ticket: Ticket) -> None:
        """Whoever asked has gone: end the computing. Safe to repeat."""
        with self._lock:
            task = self._tasks.pop(ticket, None)
            self._started.discard(ticket)
        if task is not None:
            task.cancel()

    def begin(self, ticket: Ticket) -> None:
        """Its answer has begun."""
        with self._lock:
            if ticket in self._tasks:
                self._started.add(ticket)

    def count(self) -> tuple[int, bool]:
        """How many wait, and whether one is being answered."""
        with self._lock:
            return len(self._tasks) - len(self._started), bool(self._started)

    def close(self) -> None:
        """End every answer with an error, and let nobody in any more. Safe to repeat."""
        with self._lock:
            self._is_closed = True
            asked = list(self._tasks)
        for ticket in asked:
            ticket.put(ticket.stop(*STOPPING))
            self.leave(ticket)
