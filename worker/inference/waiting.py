"""The waiting room of an engine that answers one request at a time: bounded, first come first served."""

import asyncio
import threading
from collections import deque

from app.contracts.generation import EngineError
from worker.inference.engine import Refusal, TokenEvent, TokenRequest

STOPPING = (503, "engine_stopping", "the engine stopped before the answer was complete")


class Ticket:
    """One request on its way: events go from the engine's thread to the event loop that asked."""

    def __init__(self, request: TokenRequest) -> None:
        self.request = request
        self.stop_reason: EngineError | None = None
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, event: TokenEvent) -> None:
        """Hand on an event, from any thread. A loop that is gone has nobody left who would read it."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.stop(499, "cancelled", "nobody waits for the answer any more")

    async def next(self) -> TokenEvent:
        return await self._events.get()

    def stop(self, status: int, code: str, message: str) -> EngineError:
        """Ask for the end of the answer; it is checked before every token."""
        self.stop_reason = EngineError(status=status, code=code, message=message)
        return self.stop_reason


class WaitingRoom:
    """Holds tickets until the engine's thread calls the next one."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._current: Ticket | None = None
        self._is_closed = False

    def enter(self, ticket: Ticket) -> None:
        """Raises Refusal 429 `engine_busy` when all places are taken, 503 when the engine stops."""
        with self._changed:
            if self._is_closed:
                raise Refusal(*STOPPING)
            if len(self._waiting) >= self._places:
                raise Refusal(429, "engine_busy", f"{self._places} requests are waiting already; try again later")
            self._waiting.append(ticket)
            self._changed.notify()

    def leave(self, ticket: Ticket) -> None:
        """Whoever asked has gone: give up the place, or stop the answer that is under way. Safe to repeat."""
        with self._changed:
            ticket.stop(499, "cancelled", "the request was cancelled")
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def call_next(self) -> Ticket | None:
        """Wait for a ticket; None when the room was closed."""
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._current = None if self._is_closed else self._waiting.popleft()
            return self._current

    def close(self) -> None:
        """Stop the answer under way and send everybody else away. Safe to repeat."""
        with self._changed:
            self._is_closed = True
            if self._current is not None:
                self._current.stop(*STOPPING)
            for ticket in self._waiting:
                ticket.put(ticket.stop(*STOPPING))
            self._waiting.clear()
            self._changed.notify_all()

    def count(self) -> tuple[int, bool]:
        """How many wait, and whether one is being served."""
        with self._changed:
            return len(self._waiting), self._current is not None
